"""A certificate authority of one sandbox, and certificates for the names that its services have."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID: Final = timedelta(days=30)
# A host's clock may be behind this machine's.
EARLIER: Final = timedelta(days=1)


class Authority:
    """An authority that lives as long as its sandbox. Its key is never written down.

    Args:
        name: of the sandbox, so that a person who meets the certificate knows where it comes from.
    """

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"spotcache sandbox {name}"[:64])])
        self._server_key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._certificate = (
            self._builder(self._subject, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        """The authority's certificate, for whoever is to trust it."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, names: Sequence[str]) -> bytes:
        """Certificate and key of a server that has these names, `*.` in front of some, as PEM."""
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._builder(x509.Name([]), self._server_key.public_key())
            .add_extension(alternatives, critical=True)
            .add_extension(usage, critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        key = self._server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM) + key

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - EARLIER)
            .not_valid_after(now + VALID)
        )


class Contexts:
    """A TLS server's settings that show for each name the certificate of that name, made when it is first asked for.

    Args:
        authority: makes the certificates.
        names: the certificate's names for a name that a client asks for; none where no such server is here.
        directory: where a certificate lies for the moment in which it is read.
    """

    def __init__(self, authority: Authority, names: Callable[[str], Sequence[str]], directory: Path) -> None:
        self._authority = authority
        self._names = names
        self._directory = directory
        self._made: dict[tuple[str, ...], ssl.SSLContext] = {}
        self._lock = threading.Lock()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.sni_callback = self._choose

    def _choose(self, link: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        names = tuple(self._names(name.lower())) if name else ()
        if not names:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        link.context = self._context(names)
        return None

    def _context(self, names: tuple[str, ...]) -> ssl.SSLContext:
        with self._lock:
            if names not in self._made:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                # The module reads certificates from files only.
                file = self._directory / "certificate.pem"
                file.touch(mode=0o600)
                try:
                    file.write_bytes(self._authority.issue(names))
                    context.load_cert_chain(file)
                finally:
                    file.unlink()
                self._made[names] = context
            return self._made[names]
