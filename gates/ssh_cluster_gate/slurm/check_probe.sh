# What `--check` asks of a login node about Slurm, after check_probe.sh, whose helpers it has. It runs one
# short job, which looks for a file in the work root, and for what runs images. Of a controller that does
# not answer nothing more is asked: each command would wait for it as long as the first.

echo check-begins
for tool in sinfo squeue sbatch scancel scontrol srun timeout; do
    has "$tool" || say lacks "$tool"
done
answers=
told=$(limited sinfo -h -N -o '%R|%N|%t' 2>&1)
case $? in
0)
    answers=yes
    say controller yes
    printf '%s\n' "$told" | while IFS='|' read -r partition node state; do
        say node "$partition $node $state"
    done
    ;;
124) say controller "no sinfo took more than 10 s" ;;
*) say controller "no $(flat "$told")" ;;
esac
[ -z "$answers" ] || say accounting "$(limited scontrol show config 2>/dev/null | sed -n 's/^AccountingStorageType *= *//p')"
if has apptainer && told=$(limited apptainer --version 2>/dev/null); then
    say apptainer "$(flat "${told##* }")"
fi
case $root in
'~') root=$HOME ;;
'~/'*) root=$HOME/${root#??} ;;
esac
say filesystem "$(stat -f -c %T "$root" 2>/dev/null || stat -f -c %T "$HOME" 2>/dev/null)"
[ -n "$answers" ] || {
    echo check-ends
    exit
}
made=
[ -d "$root" ] || { mkdir "$root" 2>/dev/null && made=$root; }
probe=$root/.check.$$
if : >"$probe" 2>/dev/null; then
    if told=$(limited srun -Q --immediate=8 -N 1 -n 1 -t 1 ${partition:+-p "$partition"} -D / \
        sh -c 'runs=no
            ! command -v apptainer >/dev/null || runs=yes
            if [ -e "$0" ]; then echo "$runs seen"; else echo "$runs missing"; fi' "$probe" 2>&1); then
        # What a site prints before each job comes first.
        told=$(flat "$told")
        say shared "${told##* }"
        told=${told% *}
        say node_apptainer "${told##* }"
    else
        say shared "unknown $(flat "$told")"
    fi
    rm -f "$probe"
fi
[ -z "$made" ] || rmdir "$made" 2>/dev/null
node=$(limited sinfo -h -N -t idle,mix,alloc -o %N 2>/dev/null | sed -n 1p)
if [ -n "$node" ] && has bash; then
    if limited timeout 5 bash -c ': <"/dev/tcp/$0/22"' "$node" 2>/dev/null; then
        say ssh yes
    else
        say ssh no
    fi
fi
echo check-ends
