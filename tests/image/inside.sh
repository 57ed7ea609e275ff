#!/bin/sh
# Run a program in a root file system as a container engine would: tests/image/inside.sh FOLDER PROGRAM ARGUMENT...
# The root is read-only, /tmp is empty and writable, the user is the image's. Needs root.
set -eu
root=$1
shift
exec unshare --mount --propagation private sh -eu -c '
    root=$1
    shift
    mount --bind "$root" "$root"
    mount -o remount,bind,ro "$root"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mount -t proc proc "$root/proc"
    if [ -n "${FEATUREROLLOUT_KUBECONFIG:-}" ]; then
        install -m 444 "$FEATUREROLLOUT_KUBECONFIG" "$root/tmp/kubeconfig"
        export FEATUREROLLOUT_KUBECONFIG=/tmp/kubeconfig
    fi
    exec chroot --userspec=65532:65532 "$root" "$@"
' inside "$root" "$@"
