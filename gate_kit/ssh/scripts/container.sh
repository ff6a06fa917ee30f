# Runs the script of an attempt in a container, for runner.sh: it is started in the attempt's folder, and
# ends as the script did.
#
#     sh container.sh RUNTIME SOCKET NAME IMAGE DIGEST WORK INPUT NODE MARK ATTEMPT ROOT_UID CPUS MEMORY
#         GPUS GRACE HOME INSIDE [VOLUME]... -- PROGRAM [ARGUMENT]...
#
# RUNTIME is docker, podman or apptainer, and SOCKET where its engine listens ("" is as usual). IMAGE
# and DIGEST are what was pulled. MEMORY is in bytes (0 is no limit), GPUS are ids with commas, GRACE is in
# tenths of a second, INSIDE is inside.sh, and a VOLUME is PATH:ro or PATH:rw. Standard input has the
# variables of the job, for inside.sh. What goes wrong is told in `verdict.NODE`, as a reason and a text.
#
# NODE is "" where a queue has chosen it. Then the rank stands for it, which is in the environment, as the
# GPUs are; MARK follows from it.

runtime=$1 socket=$2 name=$3 image=$4 digest=$5 work=$6 input=$7 node=$8 mark=$9
shift 9
attempt=$1 root_uid=$2 cpus=$3 memory=$4 gpus=$5 grace=$6 home=$7 inside=$8
shift 8
folder=$PWD
if [ -z "$node" ]; then
    node=$SWM_NODE_RANK mark="$attempt/$SWM_NODE_RANK;" gpus=$SWM_GPUS
    # The queue may send its signals to us as well, and we have the end to tell.
    trap : TERM USR1
fi
LC_ALL=C
export LC_ALL
umask 022
ulimit -c 0
exec 2>"trouble.$node"

case $runtime in
docker) [ -z "$socket" ] || export DOCKER_HOST="$socket" ;;
podman) [ -z "$socket" ] || export CONTAINER_HOST="$socket" ;;
esac

# Of several reasons the first one counts.
judge() {
    (set -C && printf '%s\n' "$1" >"verdict.$node") 2>/dev/null
}

# What an engine said last, without its own name before it.
trouble() {
    text=
    while IFS= read -r line; do
        case $line in
        '' | "Run '"* | "See '"*) ;;
        *) text=$line ;;
        esac
    done <"trouble.$node"
    case $text in
    *'exec: "/bin/sh"'* | *'/bin/sh: no such file'* | *'/bin/sh` '*'not found'*)
        text='the image has no /bin/sh, which jobs are run with'
        ;;
    esac
    text=${text#docker: }
    text=${text#FATAL:   }
    text=${text#Error response from daemon: }
    printf '%s' "${text#Error: }"
}

# Each mount has to have a place in the folders that it lies in. A container engine would make those as
# root, and then we could not remove them.
place() {
    case $1/ in
    "$home"/*) mkdir -p "home.$node${1#"$home"}" ;;
    esac
}

printf '%s\n.\n' "$digest" >"image.$node"
printf '%s\n' "$runtime" "$socket" "$name" >"container.$node"
cp "$inside" "inside.$node" && mkdir -p "home.$node" || {
    judge "START_FAILED $(trouble)"
    exit 1
}
place "$folder"
place "$work"

# The command line is put together behind the program and its arguments, which come last in it.
volumes=
while [ "$1" != -- ]; do
    path=${1%:*}
    place "$path"
    volumes="$volumes$1
"
    shift
done
shift
mode=record
[ "$runtime" != apptainer ] || mode=exec
set -- "$folder/inside.$node" "$mode" "$folder" "$node" "$work" "$input" "$grace" "$@"

# Prepends options to what is run.
case $runtime in
docker | podman)
    set -- "$image" "$@"
    while IFS= read -r volume; do
        [ -z "$volume" ] || set -- --volume "${volume%:*}:$volume" "$@"
    done <<VOLUMES
$volumes
VOLUMES
    # An engine refuses more than there are.
    [ "$cpus" -ge "$(grep -c ^processor /proc/cpuinfo)" ] || set -- --cpus "$cpus" "$@"
    if [ "$memory" -gt 0 ]; then
        set -- --memory "$memory" --memory-swap "$memory" --shm-size "$memory" "$@"
    else
        # As much as the system gives itself.
        read -r _ total _ </proc/meminfo
        set -- --shm-size "$((total * 512))" "$@"
    fi
    if [ -n "$gpus" ] && [ "$runtime" = docker ]; then
        set -- --gpus "\"device=$gpus\"" "$@"
    elif [ -n "$gpus" ]; then
        rest=$gpus,
        while [ -n "$rest" ]; do
            set -- --device "nvidia.com/gpu=${rest%%,*}" "$@"
            rest=${rest#*,}
        done
    else
        # An image may ask for all of them by itself.
        set -- --env NVIDIA_VISIBLE_DEVICES=void "$@"
    fi
    for group in $(id -G); do
        set -- --group-add "$group" "$@"
    done
    [ "$work" = "$folder/work" ] || set -- --volume "$work:$work" "$@"
    [ "$home" = / ] || set -- --volume "$folder/home.$node:$home" "$@"
    [ "$runtime" != podman ] || set -- --userns keep-id "$@"
    set -- run --interactive --pull never --name "$name" --network host --user "$(id -u):$(id -g)" \
        --label "skyport.attempt=$attempt" --label "skyport.root=$root_uid" \
        --label "skyport.node=$node" --security-opt no-new-privileges \
        --log-driver none --entrypoint /bin/sh --env "SWM_MARK=$mark" \
        --volume "$folder:$folder" --workdir "$folder" "$@"
    SWM_MARK=$mark "$runtime" "$@" >/dev/null
    code=$?
    ;;
apptainer)
    command -v apptainer >/dev/null || {
        judge "START_FAILED $(uname -n) has no apptainer, which containers need"
        exit 1
    }
    set -- "$image" /bin/sh "$@"
    while IFS= read -r volume; do
        [ -z "$volume" ] || set -- --bind "${volume%:*}:$volume" "$@"
    done <<VOLUMES
$volumes
VOLUMES
    # It shows all devices that we may use; CUDA_VISIBLE_DEVICES says which are the job's.
    if [ -n "$gpus" ] && [ -e /dev/kfd ]; then
        set -- --rocm "$@"
    elif [ -n "$gpus" ]; then
        set -- --nv "$@"
    fi
    [ "$work" = "$folder/work" ] || set -- --bind "$work" "$@"
    [ "$home" = / ] || set -- --home "$folder/home.$node:$home" "$@"
    # It has no engine: what it starts are our own children, in our own limits.
    SWM_MARK=$mark apptainer exec --containall --no-init --cleanenv --writable-tmpfs \
        --env "SWM_MARK=$mark" --bind "$folder" --pwd "$folder" "$@" >/dev/null
    code=$?
    ;;
esac

# How the script ended, by what inside.sh wrote: "exit CODE" or "signal NUMBER", and its times.
outcome='' stop=''
read_outcome() {
    [ -s "code.$node" ] || return
    {
        IFS= read -r outcome
        IFS= read -r own
        IFS= read -r children
        IFS= read -r stop
    } <"code.$node"
    [ "$stop" = . ] && return
    outcome=
    return 1
}

# Whether something of the attempt is still there; who started the container counts too.
is_alive() {
    grep -lszF -e "SWM_MARK=$mark" /proc/[0-9]*/environ >/dev/null
}

# Waits until the container has stopped, whatever became of the program that began it, or of the
# engine. Sets `status` and `memory_ran_out`.
await_stop() {
    tries=0
    while :; do
        status=
        told=$("$runtime" inspect --type container \
            --format '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' "$name" 2>&1) && {
            status=${told%% *} memory_ran_out=${told##* }
            case $status in
            created | exited | dead | stopped | configured)
                told=${told#* }
                [ "$status" != exited ] && [ "$status" != stopped ] || code=${told%% *}
                return
                ;;
            esac
            "$runtime" wait "$name" >/dev/null 2>&1
        }
        case $told in
        *[Nn]o\ such*) return ;;
        esac
        # The engine does not answer. What it had begun goes on without it, or has ended with it.
        if [ -z "$status" ] && ! is_alive; then
            read_outcome && return
            tries=$((tries + 1))
            if [ "$tries" -gt 30 ]; then
                judge "NODE_FAIL $runtime on $node does not answer${told:+: $told}"
                return
            fi
        fi
        sleep 1
    done
}

status='' memory_ran_out=false
if [ "$runtime" != apptainer ]; then
    read_outcome && status=exited
    # Of the memory only the engine knows.
    [ -n "$status" ] && [ "$outcome" = 'exit 0' ] || await_stop
    [ -n "$outcome" ] || read_outcome
    "$runtime" rm --force --volumes "$name" >/dev/null 2>&1 && rm -f "container.$node"
else
    rm -f "container.$node"
    [ ! -s "begun.$node" ] || outcome="exit $code"
fi

if [ "$memory_ran_out" = true ] && [ "$outcome" != 'exit 0' ]; then
    judge OUT_OF_MEMORY
    exit 1
fi
if [ -n "$outcome" ]; then
    [ -z "$own" ] || printf '%s\n%s\n' "$own" "$children" >"usage.$node"
elif [ -s "begun.$node" ]; then
    # It was ended with all that was in it.
    outcome="exit $code"
    [ "$code" -le 128 ] || outcome="signal $((code - 128))"
else
    judge "START_FAILED $(trouble)"
    exit 1
fi
case $outcome in
signal*)
    trap - TERM USR1
    kill "-${outcome#* }" $$
    exit $((128 + ${outcome#* }))
    ;;
esac
exit "${outcome#* }"
