# Removes containers of ours. "attempt PATH" is the one of an attempt; "strays RUNTIME SOCKET ROOT_UID"
# are those whose attempt is over, or gone.
#
# Answers "=gone NAME" for each that is gone, and "=failed TEXT" for each that can't be removed.

remove() { # RUNTIME SOCKET NAME
    case $1 in
    docker) [ -z "$2" ] || export DOCKER_HOST="$2" ;;
    podman) [ -z "$2" ] || export CONTAINER_HOST="$2" ;;
    *) return 0 ;;
    esac
    if told=$("$1" rm --force --volumes "$3" 2>&1 </dev/null); then
        echo "=gone $3"
        return 0
    fi
    case $told in
    *[Nn]o\ such\ [Cc]ontainer* | *no\ container\ with*)
        echo "=gone $3"
        return 0
        ;;
    esac
    printf '=failed %s\n' "$(printf '%s' "$told" | tail -n 1)"
    return 1
}

if [ "$1" = attempt ]; then
    file=$root/jobs/$2/container.$node
    [ -s "$file" ] || exit 0
    {
        IFS= read -r runtime
        IFS= read -r socket
        IFS= read -r name
    } <"$file"
    remove "$runtime" "$socket" "$name" && rm -f "$file"
    exit 0
fi

runtime=$2 socket=$3 root_uid=$4
if [ "$runtime" = auto ]; then
    for each in docker podman; do
        ! command -v "$each" >/dev/null 2>&1 || { runtime=$each && break; }
    done
fi
case $runtime in
docker) [ -z "$socket" ] || export DOCKER_HOST="$socket" ;;
podman) [ -z "$socket" ] || export CONTAINER_HOST="$socket" ;;
*) exit 0 ;;
esac
find_root
[ -n "$root_uid" ] && [ "$found" = "$root_uid" ] || exit 0
"$runtime" ps --all --filter "label=skyport.root=$root_uid" --filter "label=skyport.node=$node" \
    --format '{{.Names}} {{.Label "skyport.attempt"}}' 2>/dev/null </dev/null |
    while read -r name attempt; do
        case $attempt in
        "$partition"/*/*) ;;
        *) continue ;;
        esac
        # While its runner lives, that removes it.
        folder=$root/jobs/$attempt
        [ ! -d "$folder" ] || [ -e "$folder/end.$node" ] || continue
        remove "$runtime" "$socket" "$name" && rm -f "$folder/container.$node"
    done
