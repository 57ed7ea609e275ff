"""A service-account signing key, without openssl and without a cryptography library: neither is on every machine.

An elliptic-curve private key is nothing but a random number, and the API server works the public key out by itself.
So the key file (RFC 5915, "EC PRIVATE KEY") is that number with a few fixed bytes around it.
"""

import base64
import secrets

# The order of the curve P-256: a private key is a number from 1 to one less than this.
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
KEY_BYTES = 32


def signing_key_pem() -> str:
    """Return a new P-256 private key as PEM; the API server takes it both to sign with and to check with."""
    number = (1 + secrets.randbelow(P256_ORDER - 1)).to_bytes(KEY_BYTES, "big")
    version = b"\x02\x01\x01"
    private_key = b"\x04" + bytes([KEY_BYTES]) + number
    curve = bytes.fromhex("a00a06082a8648ce3d030107")  # [0] { OBJECT IDENTIFIER prime256v1 }
    body = version + private_key + curve
    der = b"\x30" + bytes([len(body)]) + body
    return f"-----BEGIN EC PRIVATE KEY-----\n{base64.encodebytes(der).decode()}-----END EC PRIVATE KEY-----\n"
