#!/bin/sh
# Builds an image of Redis or Valkey from the host's own package sources, without a registry and without installing anything.
#
#     build-image.sh TAG [VERSION]           (ENGINE is redis or valkey, DOCKERFILE has the Dockerfile's text, REDIS_ID user and
#                                            group as UID:GID)
#     build-image.sh --ahead TAG [VERSION]   while the engine is being installed: waits for package lists and for the engine
#
# A build waits for one that is under way; an image that this one has made is not made again.
#
# apt fetches the server's package and all it depends on, as for a system that has nothing yet, and checks the signatures. Of these
# packages only the programs, the libraries that they really load, and the licences go into the image.
set -eu
ahead=
if [ "$1" = --ahead ]; then
    ahead=yes
    shift
fi
tag=$1
version=${2:+=$2}
work=/var/cache/spotcache-image
image() { docker image inspect --format "$1" "$tag" 2>/dev/null; }
# Where there is no such image, or no engine to ask yet, the answer is empty, and that is an answer.
before=$(image '{{.Id}}' || true)
exec 9>/run/spotcache-image.lock
flock 9
[ "$(image '{{.Id}}' || true)" = "$before" ] || exit 0
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

fetch() {
    apt-get -qq -y --no-install-recommends --download-only \
        -o Dir::State::status=/dev/null -o Dir::Cache::archives="$work/debs" \
        -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o Acquire::Retries=3 \
        install "$ENGINE-server$version" "$ENGINE-tools$version" >"$work/apt.log" 2>&1
}
have_lists() { apt-get -qq --print-uris download "$ENGINE-server" >/dev/null 2>&1; }
lay_out() {
    rm -rf "$work"
    mkdir -m 0700 "$work"
    mkdir -p "$work/debs/partial" "$work/all" "$work/root" "$work/context"
    # Package lists may be missing (a fresh host) or so old that the packages are gone. While another apt is at work they are
    # its own to fetch: lists that are replaced under it end it.
    if [ "$ahead" ]; then wait_for 8 fetch; else fetch || { apt-get -qq update && fetch; }; fi ||
        { cat "$work/apt.log" >&2; exit 1; }

    # One layout for all releases: /lib and the like are links, whether or not the packages think so.
    cd "$work/all"
    mkdir -p usr/bin usr/sbin usr/lib usr/lib64
    for name in bin sbin lib lib64; do ln -s "usr/$name" "$name"; done
    for deb in "$work"/debs/*.deb; do
        case ${deb##*/} in
            lib*-perl_* | libperl*) ;;
            "$ENGINE"-* | lib* | zlib*) dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink ;;
        esac
    done

    loader=$(find usr/lib usr/lib64 -name 'ld-linux*.so.*' | head -n 1)
    programs="$ENGINE-check-aof $ENGINE-check-rdb $ENGINE-benchmark $ENGINE-cli"
    for program in $programs; do
        chroot . "/$loader" --list "/usr/bin/$program"
    done | sed -n 's,.* => \(/[^ ]*\) .*,\1,p' | sort -u >"$work/libraries"

    cd "$work/root"
    mkdir -p data etc tmp usr/bin usr/sbin usr/lib usr/lib64 usr/share/doc
    for name in bin sbin lib lib64; do ln -s "usr/$name" "$name"; done
    while read -r library; do
        mkdir -p ".${library%/*}"
        cp -L "$work/all$library" ".$library"
    done <"$work/libraries"
    mkdir -p "${loader%/*}"
    cp -L "$work/all/$loader" "$loader"
    # The program's interpreter is named by an absolute path, which differs between architectures and releases.
    for path in lib64/ld-linux-x86-64.so.2 lib/ld-linux-aarch64.so.1; do
        [ -e "$path" ] || case $loader in *"${path##*/}") ln -s "/$loader" "$path" ;; esac
    done
    for program in $programs; do cp "$work/all/usr/bin/$program" usr/bin/; done
    ln -s "$ENGINE-check-rdb" "usr/bin/$ENGINE-server"
    for licence in "$work"/all/usr/share/doc/*/copyright; do
        package=${licence%/copyright}
        mkdir -p "usr/share/doc/${package##*/}"
        cp -L "$licence" "usr/share/doc/${package##*/}/"
    done
    printf 'root:x:0:0:root:/:/nonexistent\n%s:x:%s:/data:/nonexistent\n' "$ENGINE" "$REDIS_ID:$ENGINE" >etc/passwd
    printf 'root:x:0:\n%s:x:%s:\n' "$ENGINE" "${REDIS_ID#*:}" >etc/group
    printf 'hosts: files dns\n' >etc/nsswitch.conf
    chmod 1777 tmp
    chown "$REDIS_ID" data
    chmod 700 data

    tar -C "$work/root" --sort=name -cf "$work/context/root.tar" .
    dpkg-deb --field "$(find "$work/debs" -name "$ENGINE-server_*.deb")" Version >"$work/installed"
}

# Patience for what comes while something else is being installed.
wait_for() {
    tries=$1
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.25
    done
}

# The package lists come with what the engine is installed by.
[ -z "$ahead" ] || wait_for 1200 have_lists || { echo "no package lists came within five minutes" >&2; exit 1; }
lay_out
[ -z "$ahead" ] || wait_for 2400 docker version || { echo "no engine answered within ten minutes" >&2; exit 1; }
cd /
printf '%s\nUSER %s\nCMD ["%s-server"]\n' "$DOCKERFILE" "$ENGINE" "$ENGINE" >"$work/context/Dockerfile"
installed=$(cat "$work/installed")
# The engine's own builder: the newer one is a component that may not be installed.
DOCKER_BUILDKIT=0 docker build --quiet --tag "$tag" --label "spotcache.redis.version=$installed" "$work/context" >/dev/null
echo "$tag: $ENGINE-server $installed, $(image '{{.Size}}' | awk '{printf "%d MB", $1 / 1000000}')"
