# The first process in a container: gives the script its variables, runs it, and writes how it ended.
#
#     sh inside.sh MODE FOLDER NODE WORK INPUT GRACE PROGRAM [ARGUMENT]...
#
# MODE is "record", where it is the first process of a name space of its own, or "exec"; GRACE is in
# tenths of a second. The image may have nothing but a shell, so nothing else is used. Standard input has the variables, each as its name,
# the number of its lines, and those lines; then a line with a dot.

_swm_mode=$1 _swm_folder=$2 _swm_node=$3 _swm_work=$4 _swm_input=$5 _swm_grace=$6
shift 6

# The attempt may have been ended before its container came to life.
[ -d "$_swm_folder" ] && [ ! -e "$_swm_folder/end.$_swm_node" ] &&
    [ ! -s "$_swm_folder/verdict.$_swm_node" ] || exit 0
exec 2>"$_swm_folder/notice.inside.$_swm_node"

_swm_name=
while IFS= read -r _swm_name && [ "$_swm_name" != . ] && IFS= read -r _swm_lines; do
    _swm_value=
    while [ "$_swm_lines" -gt 0 ]; do
        IFS= read -r _swm_line
        _swm_lines=$((_swm_lines - 1))
        _swm_value=$_swm_value$_swm_line
        [ "$_swm_lines" -eq 0 ] || _swm_value="$_swm_value
"
    done
    # bash keeps some names, as UID, to itself, and would end here.
    command export "$_swm_name=$_swm_value" 2>/dev/null
done

_swm_fail() {
    (set -C && echo "START_FAILED $1" >"$_swm_folder/verdict.$_swm_node")
    exit 1
}
[ "$_swm_name" = . ] || _swm_fail 'its variables did not arrive whole'
command -v "$1" >/dev/null || _swm_fail "the image has no $1, which the script asks for"
cd "$_swm_work" || _swm_fail 'its work folder is not there'
[ -r "$_swm_input" ] || _swm_fail 'its standard input is not there'
echo begun >"$_swm_folder/begun.$_swm_node"
unset OLDPWD

if [ "$_swm_mode" = exec ]; then
    exec <"$_swm_input" >"$_swm_folder/stdout.$_swm_node" 2>"$_swm_folder/stderr.$_swm_node" "$@"
fi

(
    exec <"$_swm_input" >"$_swm_folder/stdout.$_swm_node" 2>"$_swm_folder/stderr.$_swm_node"
    exec "$@"
)
_swm_code=$?

# As in runner.sh: the shell says on our standard error what was ended by a signal, except for INT and
# PIPE.
_swm_outcome="exit $_swm_code"
if [ "$_swm_code" -gt 128 ] && { [ -s "$_swm_folder/notice.inside.$_swm_node" ] ||
    [ "$_swm_code" -eq 130 ] || [ "$_swm_code" -eq 141 ]; }; then
    _swm_outcome="signal $((_swm_code - 128))"
fi

# What the script has left behind may end in peace; all goes when we do.
if kill -TERM -1 2>/dev/null; then
    _swm_tick=0
    while [ "$_swm_tick" -lt "$_swm_grace" ] && kill -0 -1 2>/dev/null && sleep 0.1; do
        _swm_tick=$((_swm_tick + 1))
    done
fi 2>/dev/null
{ printf '%s\n' "$_swm_outcome" && times && echo .; } >"$_swm_folder/code.$_swm_node"
exit "$_swm_code"
