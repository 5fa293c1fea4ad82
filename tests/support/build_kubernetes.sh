#!/usr/bin/env bash
# Builds a Kubernetes API server from Debian's packages alone, as root: build_kubernetes.sh FOLDER
#
# FOLDER/bin has etcd, kube-apiserver and kube-controller-manager (1.20.2 of Debian 12, statically linked) afterwards. They
# are built in a Debian of its own, FOLDER/root, which is deleted at the end. It needs root, debootstrap and 4 GB, asks no
# server but debootstrap's mirror, and takes 10 to 20 minutes on two shared cores (2026-11-25).
set -euo pipefail

folder=$(realpath -m "$1")
root=$folder/root
umount_all() { umount "$root/proc" "$root/dev" 2>/dev/null || true; }

if [[ ! -e $root/.made ]]; then
    umount_all
    rm -rf --one-file-system "$root"
    debootstrap --variant=minbase --include=ca-certificates bookworm "$root"
    touch "$root/.made"
fi
trap umount_all EXIT
mount --bind /proc "$root/proc"
mount --bind /dev "$root/dev"
cp /etc/resolv.conf "$root/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d" # no package starts a server
chmod +x "$root/usr/sbin/policy-rc.d"
grep '^deb ' "$root/etc/apt/sources.list" | sed 's/^deb /deb-src /' > "$root/etc/apt/sources.list.d/source.list"

chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive \
    /bin/bash -euo pipefail <<'IN'
apt-get update -qq
apt-get install -qq --no-install-recommends golang-1.19-go etcd-server dpkg-dev golang-github-modern-go-reflect2-dev
mkdir -p /go/src/k8s.io
cd /go/src/k8s.io
if [[ ! -d kubernetes ]]; then
    apt-get source -qq kubernetes
    mv kubernetes-*/ kubernetes
fi
cd kubernetes
# The library of this source dies under Go 1.18 and newer, at the first list of a custom resource.
rm -rf vendor/github.com/modern-go/reflect2
cp -rL /usr/share/gocode/src/github.com/modern-go/reflect2 vendor/github.com/modern-go/
export PATH=/usr/lib/go-1.19/bin:$PATH GOPATH=/go GO111MODULE=off GOPROXY=off GOFLAGS= CGO_ENABLED=0 GOTOOLCHAIN=local
# Debian's source lacks the generated description of the API.
go build -o /usr/bin/openapi-gen ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
marked=$(grep --recursive --files-with-matches '+k8s:openapi-gen=' --include='doc.go' --include='types.go' --include='*.go' \
    pkg/apis staging/src/k8s.io vendor/k8s.io 2>/dev/null | xargs -n1 dirname | sort -u | sed 's|^staging/src/||; s|^vendor/||' \
    | sed 's|^pkg/|k8s.io/kubernetes/pkg/|' | sort -u | paste -sd,)
openapi-gen --v 1 --logtostderr --input-dirs "$marked" --go-header-file /dev/null \
    --output-file-base zz_generated.openapi --output-package k8s.io/kubernetes/pkg/generated/openapi \
    --report-filename /tmp/violations
info=k8s.io/kubernetes/vendor/k8s.io/component-base/version
version="-X $info.gitVersion=v1.20.2 -X $info.gitMajor=1 -X $info.gitMinor=20 -s -w"
for program in kube-apiserver kube-controller-manager; do
    go build -p 2 -ldflags "$version" -o /usr/local/bin/$program ./cmd/$program
done
IN

mkdir -p "$folder/bin"
cp "$root/usr/bin/etcd" "$root/usr/local/bin/kube-apiserver" "$root/usr/local/bin/kube-controller-manager" "$folder/bin/"
umount_all
rm -rf --one-file-system "$root"
