#!/usr/bin/env python3
"""Writes modp.json: Diffie-Hellman over the MODP groups, computed by Python's own integers.

An oracle that shares nothing with the crate: the primes come from the closed formula of RFC 2409 6.2 and RFC 3526
(with pi computed here), the powers from pow(). Private exponents are SHA-256 output with the top bit set, of the
length the crate uses. In each group the second case is one where the public value of the initiator begins with a
zero octet, and the third one where the shared secret does: they show that padding is kept.
"""
import hashlib
import json

DIGITS = 10**1350


def arctan_inverse(x):
    term = total = DIGITS // x
    n, sign = 3, -1
    while term:
        term //= x * x
        total += sign * (term // n)
        n, sign = n + 2, -sign
    return total


PI = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))

# group number: (bits of the prime, the formula's last term, bits of the exponent)
GROUPS = {
    2: (1024, 129093, 256),
    5: (1536, 741804, 256),
    14: (2048, 124476, 320),
    15: (3072, 1690314, 448),
    16: (4096, 240904, 512),
}


def exponent(label, bits):
    stream = b"".join(hashlib.sha256(f"{label} {i}".encode()).digest() for i in range(2))
    return int.from_bytes(stream[: bits // 8], "big") | 1 << (bits - 1)


cases = []
for method, (bits, last, exponent_bits) in GROUPS.items():
    p = 2**bits - 2 ** (bits - 64) - 1 + 2**64 * ((2 ** (bits - 130) * PI) // DIGITS + last)
    octets = bits // 8

    def write(a, b):
        cases.append(
            {
                "method": method,
                "prime": p.to_bytes(octets, "big").hex(),
                "i": a.to_bytes(exponent_bits // 8, "big").hex(),
                "r": b.to_bytes(exponent_bits // 8, "big").hex(),
                "public_i": pow(2, a, p).to_bytes(octets, "big").hex(),
                "public_r": pow(2, b, p).to_bytes(octets, "big").hex(),
                "shared": pow(2, a * b, p).to_bytes(octets, "big").hex(),
            }
        )

    def search(begins_with_zero):
        n = 1
        while not begins_with_zero(exponent(f"{method} i {n}", exponent_bits)):
            n += 1
        return exponent(f"{method} i {n}", exponent_bits)

    b = exponent(f"{method} r", exponent_bits)
    public_r = pow(2, b, p)
    short = 1 << (bits - 8)
    write(exponent(f"{method} i 0", exponent_bits), b)
    write(search(lambda a: pow(2, a, p) < short), b)
    write(search(lambda a: pow(public_r, a, p) < short), b)

with open("modp.json", "w") as file:
    json.dump(cases, file, indent=1)
    file.write("\n")
