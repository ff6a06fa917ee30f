# Has an image on the host: RUNTIME SOCKET IMAGE POLICY FILE. RUNTIME may be "auto": the first one that
# there is. POLICY is "missing", or "always" to look for a newer one; FILE is the name that apptainer
# keeps it by. A line with the login comes first: what docker keeps in its config.json, or nothing; for
# apptainer a name, and a line with the password.
#
# Answers "=runtime NAME", lines of the pull as they come, "=code NUMBER" when it has ended, and
# "=image ID [NAME@DIGEST]..." if it is here.

runtime=$1 socket=$2 image=$3 policy=$4 file=$root/images/$5
IFS= read -r login
IFS= read -r name
IFS= read -r password

if [ "$runtime" = auto ]; then
    for each in docker podman apptainer; do
        ! command -v "$each" >/dev/null 2>&1 || { runtime=$each && break; }
    done
fi
if [ "$runtime" = auto ] || ! command -v "$runtime" >/dev/null 2>&1; then
    echo "=lacks $runtime"
    exit 0
fi
echo "=runtime $runtime"

case $runtime in
docker) [ -z "$socket" ] || export DOCKER_HOST="$socket" ;;
podman) [ -z "$socket" ] || export CONTAINER_HOST="$socket" ;;
esac

tell_image() {
    if [ "$runtime" = apptainer ]; then
        [ -f "$file" ] && echo "=image $file"
        return
    fi
    told=$("$runtime" image inspect --format '{{.Id}}{{range .RepoDigests}} {{.}}{{end}}' "$image" \
        2>/dev/null) && echo "=image $told"
}

if [ "$policy" = missing ] && tell_image; then
    exit 0
fi

# A login is only ever in memory, or in a file of ours alone for as long as the pull takes. Other hosts
# may have the same root, and their processes are not seen from here.
for old in "$root/login.$node."*; do
    pid=${old#"$root/login.$node."}
    case $pid in *[!0-9]*) continue ;; esac
    [ -d "/proc/$pid" ] || rm -rf "$old"
done
place=$root/login.$node.$$
trap 'rm -rf "$place"' EXIT
trap 'exit 1' HUP INT TERM PIPE
mkdir -p "$place" || exit 1
case $runtime in
docker)
    if [ -n "$login" ]; then
        ln -s /proc/self/fd/0 "$place/config.json"
        printf '%s' "$login" | docker --config "$place" pull "$image" 2>&1
    else
        docker pull "$image" 2>&1 </dev/null
    fi
    ;;
podman)
    if [ -n "$login" ]; then
        printf '%s' "$login" >"$place/auth.json"
        podman pull --authfile "$place/auth.json" "$image" 2>&1 </dev/null
    else
        podman pull "$image" 2>&1 </dev/null
    fi
    ;;
apptainer)
    [ -z "$name" ] || export APPTAINER_DOCKER_USERNAME="$name" APPTAINER_DOCKER_PASSWORD="$password"
    mkdir -p "$root/images" &&
        apptainer pull --force "$file.$node.$$" "docker://$image" 2>&1 </dev/null &&
        mv "$file.$node.$$" "$file"
    ;;
esac &
# A shell waits for what is in front before it heeds a signal.
pulling=$!
trap 'kill "$pulling"; exit 1' HUP INT TERM PIPE
wait "$pulling"
echo "=code $?"
tell_image
