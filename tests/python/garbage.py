"""Garbage for a live gateway, from its peer's own address.

usage: garbage.py CAPTURE PEER TARGET RANDOM_PACKETS SEED

Takes from CAPTURE (pcap) the IKE messages and the first ESP packets that PEER sent to TARGET and sends every
truncation and every one-octet change of each, then RANDOM_PACKETS of noise to UDP 500, UDP 4500 and IP protocol 50.
Runs on the router. Paced, so that a loss can only be the target's doing and not a full socket's.
"""

import random
import socket
import struct
import sys
import time

capture, peer, target, random_packets, seed = sys.argv[1:]
noise = random.Random(int(seed))


def frames(path):
    data = open(path, "rb").read()
    if data[:4] != b"\xd4\xc3\xb2\xa1":
        raise SystemExit("not a little-endian pcap file")
    offset = 24
    while offset + 16 <= len(data):
        length = struct.unpack_from("<I", data, offset + 8)[0]
        yield data[offset + 16 : offset + 16 + length]
        offset += 16 + length


def payloads():
    """(UDP ports or None, payload) of IPv4 packets from the peer to the target."""
    for frame in frames(capture):
        if frame[12:14] != b"\x08\x00":
            continue
        header = (frame[14] & 15) * 4
        packet = frame[14 : 14 + struct.unpack("!H", frame[16:18])[0]]
        if packet[12:16] != socket.inet_aton(peer) or packet[16:20] != socket.inet_aton(target):
            continue
        body = packet[header:]
        if packet[9] == 17:
            yield struct.unpack("!HH", body[:4]), body[8:]
        elif packet[9] == 50:
            yield None, body


raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
sent = 0
start = time.monotonic()
PER_SECOND = 4000


def send(ports, body):
    global sent
    if ports is not None:
        # A UDP checksum of zero means that there is none.
        body = struct.pack("!HHHH", *ports, 8 + len(body), 0) + body
    protocol = 50 if ports is None else 17
    # The kernel fills in length, identification and checksum.
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, protocol, 0, socket.inet_aton(peer), socket.inet_aton(target))
    raw.sendto(head + body, (target, 0))
    sent += 1
    ahead = sent / PER_SECOND - (time.monotonic() - start)
    if ahead > 0.02:
        time.sleep(ahead)


ike, esp = [], []
for ports, body in payloads():
    is_ike = ports is not None and (ports[1] == 500 or body[:4] == bytes(4))
    if is_ike and (ports, body) not in ike:
        ike.append((ports, body))
    elif not is_ike and len(body) > 8:
        esp.append((ports, body))
if len(ike) < 2 or not esp:
    raise SystemExit(f"the capture holds {len(ike)} IKE messages and {len(esp)} ESP packets")
chosen = ike + esp[:2]
for ports, body in chosen:
    for length in range(len(body)):
        send(ports, body[:length])
    for position in range(len(body)):
        changed = bytearray(body)
        changed[position] ^= noise.randrange(1, 256)
        send(ports, bytes(changed))
    # Longer than it says, and the whole thing again.
    send(ports, body + bytes(7))
    send(ports, body)
mutated = sent

live_spi = esp[0][1][:4]
for _ in range(int(random_packets)):
    body = noise.randbytes(noise.choice((0, 1, 3, 4, 8, 28, 64, 200, 1200, noise.randrange(1400))))
    kind = noise.randrange(6)
    if kind == 0:
        send((500, 500), body)
    elif kind == 1:
        send((4500, 4500), bytes(4) + body)
    elif kind == 2:
        send((4500, 4500), live_spi + body)
    elif kind == 3:
        send(None, live_spi + body)
    elif kind == 4:
        send(None, body)
    else:
        # A plausible IKE header before the noise.
        exchange = noise.choice((34, 34, 35, 36, 37, 99))
        first = noise.choice((33, 34, 40, 41, 46, 53, 200))
        flags = noise.choice((0x08, 0x20, 0x28))
        head = noise.randbytes(8) + bytes(8) + struct.pack("!BBBBII", first, 0x20, exchange, flags, 0, 28 + len(body))
        send((500, 500), head + body)
print(f"sent {mutated} mutations of {len(chosen)} messages and {sent - mutated} random packets")
