#!/bin/sh
# What an image of this host must not hold: put aside before the image is made, and put back afterwards.
#
#   image-secrets.sh fingerprint ADDRESS FILE...   what the image would be of: one hash, whatever the host's address
#   image-secrets.sh scrub FILE...                 put the files aside, in memory; they come back by themselves after five minutes
#   image-secrets.sh unscrub                       put them back
set -eu
aside=/run/spotcache-image
unit=spotcache-image-secrets

fingerprint() {
    address=$1
    shift
    {
        for file in "$@"; do
            [ ! -e "$file" ] || { echo "== $file"; LC_ALL=C sed "s/$address/ADDRESS/g" "$file"; }
        done
        docker container inspect --format '{{.Image}} {{json .Config.Cmd}} {{.HostConfig.Memory}}' spotcache-redis
        docker version --format '{{.Server.Version}}'
    } | sha256sum | cut -c1-32
}

scrub() {
    umask 077
    mkdir -p "$aside/files"
    cp "$0" "$aside/script"
    # Before anything is moved: whatever happens to the play, the host gets its files back.
    systemd-run --quiet --collect --unit="$unit" --on-active=300 /bin/sh "$aside/script" unscrub
    for file in "$@"; do
        [ -e "$file" ] || continue
        mkdir -p "$aside/files$(dirname "$file")"
        # The keeper reads it there meanwhile: it is there whole or not at all.
        cp -p "$file" "$aside/part"
        mv "$aside/part" "$aside/files$file"
        # The blocks of a file that is only unlinked are still in the image.
        shred -u "$file"
    done
    # A host that is launched from the image has a blank data volume, which is not to be waited for.
    cp -p /etc/fstab "$aside/files/etc/fstab"
    sed -i '\, /srv/redis ,d' /etc/fstab
    sync
}

unscrub() {
    [ -d "$aside/files" ] || exit 0
    find "$aside/files" -type f | while read -r kept; do
        file=${kept#"$aside/files"}
        # By rename, so that nobody reads half of it; fstab is a mount point's line and no secret.
        cp -p "$kept" "$file.back"
        mv "$file.back" "$file"
    done
    rm -rf "$aside"
    # It has ended by itself when it was what called this; nothing depends on whether it was still there.
    systemctl stop "$unit.timer" 2> /dev/null || true
}

verb=$1
shift
"$verb" "$@"
