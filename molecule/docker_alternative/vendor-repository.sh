#!/bin/sh
# Makes a signed apt repository in /srv/vendor with packages that are called as Docker's are.
set -eu
export DEBIAN_FRONTEND=noninteractive GNUPGHOME=/root/vendor-gnupg
apt-get -qq update
apt-get -qq install -y --no-install-recommends gpg gpg-agent >/dev/null
root=/srv/vendor/debian
dist=$root/dists/bookworm
mkdir -p "$root/pool" "$dist/stable/binary-amd64" "$GNUPGHOME"
chmod 700 "$GNUPGHOME"

# The distribution's engine under the vendor's name, which conflicts with it as the real one does.
cd /root
apt-get -qq download docker.io
dpkg-deb --raw-extract docker.io_*.deb docker-ce
sed -i -e 's/^Package: .*/Package: docker-ce/' -e 's/^Version: .*/Version: 1:99.0/' -e '/^Conflicts:/d' docker-ce/DEBIAN/control
echo 'Conflicts: docker.io' >>docker-ce/DEBIAN/control
for name in docker-ce-cli containerd.io; do
    mkdir -p "$name/DEBIAN"
    case $name in containerd.io) depends=containerd ;; *) depends=docker-ce ;; esac
    printf 'Package: %s\nVersion: 1:99.0\nArchitecture: all\nMaintainer: Test <test@example.com>\nDepends: %s\nDescription: test\n' \
        "$name" "$depends" >"$name/DEBIAN/control"
done
for name in docker-ce docker-ce-cli containerd.io; do
    deb=$root/pool/$name.deb
    dpkg-deb -Znone --build "$name" "$deb" >/dev/null
    {
        cat "$name/DEBIAN/control"
        printf 'Filename: pool/%s.deb\nSize: %s\nSHA256: %s\n\n' "$name" "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -d' ' -f1)"
    } >>"$dist/stable/binary-amd64/Packages"
done

packages=stable/binary-amd64/Packages
{
    printf 'Origin: Test\nSuite: bookworm\nCodename: bookworm\nArchitectures: amd64\nComponents: stable\nDate: %s\nSHA256:\n' "$(date -Ru)"
    printf ' %s %s %s\n' "$(sha256sum "$dist/$packages" | cut -d' ' -f1)" "$(stat -c %s "$dist/$packages")" "$packages"
} >"$dist/Release"
gpg --batch --quiet --passphrase '' --quick-generate-key 'Test <test@example.com>' rsa2048 sign never
gpg --batch --quiet --armor --export >/srv/vendor/key.asc
gpg --batch --quiet --clearsign --output "$dist/InRelease" "$dist/Release"
