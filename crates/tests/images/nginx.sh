#!/bin/bash
# Makes images of nginx from Debian's own package with other people's tools: an OCI archive by buildah, a docker archive
# by skopeo. The package is unpacked, never installed: nothing starts on this machine.
# Prints the directory with nginx.oci.tar and nginx.docker.tar. They are kept in the cache, by version; the cache may
# be deleted at any time.
set -euo pipefail

cache=${WHARF_CACHE:-$HOME/.cache/wharf}/images

# The package and the libraries it needs, and those they need.
packages() {
    local todo=("$1") seen=" " next p
    while ((${#todo[@]})); do
        p=${todo[0]} todo=("${todo[@]:1}")
        [[ $seen == *" $p "* ]] && continue
        seen+="$p " && echo "$p"
        next=$(apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$p" |
            sed -n 's/^ *|\{0,1\}\(Pre\)\{0,1\}Depends: //p' | grep -E '^(lib|zlib|nginx-common$)' | grep -v '^libnginx' || true)
        # shellcheck disable=SC2206
        todo+=($next)
    done
}

[[ -n $(apt-cache show nginx 2>/dev/null) ]] || apt-get update -q >&2
names=$(packages nginx)
# shellcheck disable=SC2086
key=$( (apt-cache policy $names; buildah --version; cat "$0") | sha256sum | cut -c1-16)
out=$cache/nginx-$key
if [[ -s $out/nginx.oci.tar && -s $out/nginx.docker.tar ]]; then
    echo "$out"
    exit 0
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/wharf-nginx.XXXXXX")
store=(--root "$work/store" --runroot "$work/run" --storage-driver vfs)
clean() {
    buildah "${store[@]}" rm --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean EXIT

mkdir -p "$work"/{debs,unpacked,root}
# shellcheck disable=SC2086
(cd "$work/debs" && apt-get download -q $names >&2 2>/dev/null)
for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/unpacked"; done

# A merged /usr, as Debian has it: the packages still bring both.
root=$work/root
mkdir -p "$root"/{usr,etc,tmp,run,proc,sys,dev,var/www/html,var/lib/nginx,var/log/nginx}
chmod 1777 "$root/tmp"
for dir in bin sbin lib lib64; do
    mkdir -p "$root/usr/$dir" && ln -s "usr/$dir" "$root/$dir"
    [[ ! -d $work/unpacked/$dir ]] || cp -a "$work/unpacked/$dir/." "$root/usr/$dir/"
done
cp -a "$work/unpacked/usr/." "$root/usr/"
cp -a "$work/unpacked/etc/." "$root/etc/"
rm -rf "$root"/usr/share/{doc,man,locale,lintian}
# What the package's own set-up script does.
rm -rf "$root"/etc/nginx/modules-enabled && mkdir "$root/etc/nginx/modules-enabled"
mkdir -p "$root/etc/nginx/sites-enabled"
ln -sf /etc/nginx/sites-available/default "$root/etc/nginx/sites-enabled/default"
echo 'root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin' >"$root/etc/passwd"
echo 'root:x:0:
www-data:x:33:' >"$root/etc/group"
echo '<h1>nginx from a Debian package</h1>' >"$root/var/www/html/index.html"

{
    container=$(buildah "${store[@]}" from scratch)
    buildah "${store[@]}" add "$container" "$root" /
    buildah "${store[@]}" config --cmd '["nginx", "-g", "daemon off;"]' --port 80 --stop-signal SIGQUIT \
        --env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah "${store[@]}" commit --format oci "$container" "oci-archive:$work/nginx.oci.tar:latest"
    skopeo copy --insecure-policy "oci-archive:$work/nginx.oci.tar" "docker-archive:$work/nginx.docker.tar:debian/nginx:latest"
} >&2

mkdir -p "$out"
mv "$work/nginx.docker.tar" "$work/nginx.oci.tar" "$out/"
echo "$out"
