#!/bin/sh
# Runs a command on this machine's own root, bound upon itself in a mount namespace of its own: a container's mounts then
# are nobody else's, and buildah's chroot isolation may change them. Needs root. Usage: private_root.sh FOLDER COMMAND …
set -eu
if [ "${PRIVATE_ROOT_STEP:-}" != inside ]; then
    export PRIVATE_ROOT_STEP=inside
    exec unshare --mount --propagation private "$0" "$@"
fi
unset PRIVATE_ROOT_STEP
folder=$1
shift
working_folder=$(pwd)
mkdir -p "$folder"
mount --rbind / "$folder"
cd "$folder"
pivot_root . .
umount --lazy .
cd "$working_folder"
exec "$@"
