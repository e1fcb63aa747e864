"""Certificates for schedulers that are reached by ``tls://``."""

from __future__ import annotations

from pathlib import Path

from distributed.security import Security

from tileseg.errors import UsageError

_ENCRYPTED = ("tls://", "wss://")

_CERTIFICATES = {
    "client": "give --cluster a file with `scheduler:` and `security: {ca_file: ..., cert: ..., key: ...}`",
    "worker": "give --tls CA CERT KEY",
}
"""Role -> how its certificates are given."""


def security_for(address: str, role: str, files: tuple[Path, Path, Path] | None) -> Security | None:
    """The certificates of a ``client`` or ``worker``: from files (CA, certificate, key), or None: from Dask's settings.

    Raises UsageError where a file is missing, or an address needs certificates and there are none.
    """
    if files is not None:
        for file in files:
            if not file.is_file():
                raise UsageError(f"{file}: no such file; expected a PEM file for {address}")
        ca, cert, key = map(str, files)
        names = {f"tls_{role}_cert": cert, f"tls_{role}_key": key}
        return Security(tls_ca_file=ca, require_encryption=True, **names)
    known = Security().get_tls_config_for_role(role)
    if address.startswith(_ENCRYPTED) and not (known["ca_file"] and known["cert"]):
        variables = (
            f"DASK_DISTRIBUTED__COMM__TLS__CA_FILE, ..._TLS__{role.upper()}__CERT and ..._TLS__{role.upper()}__KEY"
        )
        raise UsageError(f"{address}: needs certificates; {_CERTIFICATES[role]}, or set {variables}")
    return None
