# Has an image on the host: RUNTIME SOCKET IMAGE POLICY FILE. RUNTIME may be "auto": the first one that
# there is. POLICY is "missing", or "always" to look for a newer one; FILE is the name of what tells in
# which file apptainer has it. A line with the login comes first: what docker keeps in its config.json, or
# nothing; for apptainer a name, and a line with the password.
#
# Answers "=runtime NAME", lines of the pull as they come, "=code NUMBER" when it has ended, and
# "=image ID [[NAME@]DIGEST]..." if it is here.

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
        read_whole "$file" && [ -f "$root/images/${line%% *}.sif" ] &&
            echo "=image $root/images/${line%% *}.sif ${line#* }"
        return
    fi
    told=$("$runtime" image inspect --format '{{.Id}}{{range .RepoDigests}} {{.}}{{end}}' "$image" \
        2>/dev/null) && echo "=image $told"
}

if [ "$policy" = missing ] && tell_image; then
    exit 0
fi

# What apptainer has pulled gets its place, in a file by its digest. One that is there stays: jobs may be
# reading it, on other machines too.
keep_sif() {
    said='.* source image digest for .* is \([0-9a-f]\{64\}\)$'
    digest=$(sed -n "s/$said/sha256:\1/p" "$place/log" | tail -n 1)
    case $image in *@sha256:*) digest=${image##*@} ;; esac
    sum=${digest#sha256:}
    # Not every version tells it.
    [ -n "$sum" ] || sum=$(sha256sum <"$place/image.sif") || return
    sum=${sum%% *}
    mkdir -p "$root/images" || return
    [ -f "$root/images/$sum.sif" ] || mv "$place/image.sif" "$root/images/$sum.sif" || return
    write_whole "$file" "$sum $digest"
}

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
    # The digest is among what it says for debugging; the rest of that is nobody's business. The login
    # is in its environment alone, since nothing else of it is read by every version.
    {
        (
            [ -z "$name" ] ||
                export APPTAINER_DOCKER_USERNAME="$name" APPTAINER_DOCKER_PASSWORD="$password"
            exec apptainer --debug pull "$place/image.sif" "docker://$image"
        ) 2>&1 </dev/null
        echo "$?" >"$place/code"
    } | sed -u '/^DEBUG/{/ source image digest for /!d;}' | tee "$place/log"
    { IFS= read -r code <"$place/code"; } 2>/dev/null && [ "$code" = 0 ] && keep_sif 2>&1
    ;;
esac &
# A shell waits for what is in front before it heeds a signal.
pulling=$!
trap 'kill "$pulling"; exit 1' HUP INT TERM PIPE
wait "$pulling"
echo "=code $?"
tell_image
