# FOLDER ROOT...: says "yes" if the folder is one of the roots or lies below one, by what it really is: a
# link below a root may lead anywhere. Of a folder that is not there yet the one that it would be made in
# counts. A root may be ~ or begin with ~/.

# Sets `real`.
resolve() {
    place=${1%/} rest=
    while [ ! -e "${place:-/}" ] && [ ! -h "$place" ]; do
        rest=/${place##*/}$rest
        place=${place%/*}
    done
    # A file, or a link that leads nowhere, is no place for a folder.
    real=$(cd -P "${place:-/}" 2>/dev/null && pwd -P && echo .) || return
    real=${real%??}
    real=${real%/}$rest
}

folder=$1
shift
resolve "$folder" || exit 0
wanted=$real
for root; do
    case $root in
    '~') root=$HOME ;;
    '~/'*) root=$HOME/${root#??} ;;
    esac
    resolve "$root" || continue
    case $wanted/ in
    "$real"/*)
        echo yes
        exit 0
        ;;
    esac
done
