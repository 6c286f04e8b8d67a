"""An independent ESP end point (scapy's IPsec layer) that takes the place of a gateway whose SAs it has the keys of.

usage: esp_peer.py KEYS PEER ADIT HOST_BEHIND_PEER HOST_BEHIND_ADIT SPI_TO_ADIT SPI_TO_PEER INTERFACE IN_UDP

KEYS is Wireshark's table `esp_sa` as Adit's key log writes it. Runs on the router between the gateways, sends from
the peer's address and reads what passes INTERFACE. Sends good packets, which must be answered, and bad ones, which
must not. Prints one line for each and ends with 0 only if all went as it should.
"""

import csv
import logging
import socket
import struct
import sys
import time

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.layers.inet import ICMP, IP, UDP  # noqa: E402
from scapy.layers.ipsec import ESP, SecurityAssociation  # noqa: E402
from scapy.layers.l2 import Ether  # noqa: E402
from scapy.packet import Raw  # noqa: E402

keys, peer, adit, far, near, spi_to_adit, spi_to_peer, interface, in_udp = sys.argv[1:]
spi_to_adit, spi_to_peer, in_udp = int(spi_to_adit, 16), int(spi_to_peer, 16), in_udp == "yes"


def associations():
    """Every SA of the key table, by SPI."""
    found = {}
    # What Wireshark cannot name is a comment in its table, with the same columns.
    for row in csv.reader(line.removeprefix("# not known to Wireshark: ") for line in open(keys)):
        _, _, _, spi, encryption, key, authentication, auth_key = row
        key = bytes.fromhex(key.removeprefix("0x"))
        options = {}
        if encryption.startswith("AES-GCM"):
            algorithm = "AES-GCM"
        elif encryption.startswith("AES-CBC"):
            algorithm = "AES-CBC"
            names = {"HMAC-SHA-256-128": "SHA2-256-128", "HMAC-SHA-384-192": "SHA2-384-192", "HMAC-SHA-512-256": "SHA2-512-256"}
            options["auth_algo"] = names[authentication.split(" ")[0]]
            options["auth_key"] = bytes.fromhex(auth_key.removeprefix("0x"))
        elif encryption.lower().startswith("chacha20"):
            algorithm = "CHACHA20-POLY1305"
        else:
            raise SystemExit(f"{encryption}: not an algorithm that this test uses")
        if in_udp:
            options["nat_t_header"] = UDP(sport=4500, dport=4500)
        found[int(spi, 16)] = SecurityAssociation(
            ESP, spi=int(spi, 16), crypt_algo=algorithm, crypt_key=key,
            tunnel_header=IP(src=peer, dst=adit), **options)
    return found


table = associations()
outbound, inbound = table[spi_to_adit], table[spi_to_peer]
# Far above anything that the real peer has sent, so that its packets are never mistaken for ours.
outbound.seq_num = 100_000

tx = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
rx = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
rx.bind((interface, 0))
rx.settimeout(0.05)


def request(number, size=56, source=far, destination=near):
    return IP(src=source, dst=destination) / ICMP(type=8, id=0x4C42, seq=number) / Raw((b"adit" * 400)[:size])


def answers(number, seconds):
    """Inner echo replies with this number that Adit seals for us in the given time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            packet = Ether(rx.recv(65535))
        except TimeoutError:
            continue
        if IP not in packet or packet[IP].src != adit:
            continue
        if in_udp:
            if UDP not in packet or packet[UDP].sport != 4500:
                continue
            body = bytes(packet[UDP].payload)
        elif packet[IP].proto == 50:
            body = bytes(packet[IP].payload)
        else:
            continue
        if len(body) < 8 or struct.unpack("!I", body[:4])[0] != spi_to_peer:
            continue
        sealed = IP(src=adit, dst=peer, proto=17 if in_udp else 50) / (
            UDP(sport=4500, dport=4500) / ESP(body) if in_udp else ESP(body))
        inner = inbound.decrypt(sealed)
        if IP in inner and inner[IP].src == near and ICMP in inner and inner[ICMP].type == 0 and inner[ICMP].seq == number:
            return inner[IP]
    return None


failed = []


def expect(answered, name, number, packet):
    tx.sendto(bytes(packet), (adit, 0))
    answer = answers(number, 5 if answered else 0.5)
    good = (answer is not None) == answered
    print(f"{'ok  ' if good else 'BAD '} {name}: {'answered' if answer is not None else 'silence'}", flush=True)
    if not good:
        failed.append(name)
    return answer


def damaged(packet, offset):
    """The packet with one bit of its ESP part changed; negative offsets count from the end."""
    start = 20 + (8 if in_udp else 0)
    octets = bytearray(bytes(packet))
    octets[start + offset if offset >= 0 else len(octets) + offset] ^= 1
    changed = IP(bytes(octets))
    del changed.chksum
    if in_udp:
        changed[UDP].chksum = 0
    return changed


number = 0
for size in (56, 0, 1, 2, 3, 333, 1200):
    number += 1
    packet = outbound.encrypt(request(number, size))
    answer = expect(True, f"echo of {size} octets", number, packet)
    if answer is not None and bytes(answer[ICMP].payload) != (b"adit" * 400)[:size]:
        failed.append(f"echo of {size} octets came back changed")
expect(False, "the same packet again", number, packet)
for name, offset in (("SPI", 3), ("sequence number", 7), ("IV", 8), ("ciphertext", 24), ("ICV", -1)):
    number += 1
    expect(False, f"one bit of the {name} changed", number, damaged(outbound.encrypt(request(number)), offset))
number += 1
expect(False, "inner source outside the selectors", number, outbound.encrypt(request(number, source="10.99.0.1")))
number += 1
expect(False, "inner destination outside the selectors", number, outbound.encrypt(request(number, destination="198.51.100.1")))
# Behind the window, which is at least 1024 packets wide and at most a few thousand.
number += 1
expect(False, "far behind the replay window", number, outbound.encrypt(request(number), seq_num=50_000))
number += 1
expect(True, "behind by 1000, inside the window", number, outbound.encrypt(request(number), seq_num=outbound.seq_num - 1000))
number += 1
expect(True, "echo after all that", number, outbound.encrypt(request(number)))
if failed:
    raise SystemExit(f"failed: {failed}")
