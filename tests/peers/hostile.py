"""Packets a hostile customer may send, and what must become of them.

outside DEV JSON               sends every case as from the sites, prints what is wrong with what was counted, then how
                               many cases were judged
inside DEV JSON                the same as from root inside a tenant
congestion DEV JSON TENANT     sends all pairs of congestion marks through the tenant's tunnel
jumbo DEV JSON                 sends two packets that are longer than a port takes
fuzz DEV JSON SEED COUNT       sends COUNT mutations of packets that are fine, as from the sites
fuzz-tenant DEV JSON SEED COUNT   the same as from root inside a tenant
fuzz-super DEV JSON SEED COUNT    super-packets with segment sizes that make no sense, from there
flood DEV JSON WHAT SECONDS    sends neighbour questions as fast as it can; prints how many

JSON says who is who: server_mac, peer_mac, and for each tenant a, b, c (kind, remote, local, key, vlan, mac).
Written without scapy: most of these packets are nothing a well-behaved library makes.
"""
import http.client, ipaddress, json, random, socket, struct, sys, time

HOST4, SERVER4, HOST6, SERVER6 = "192.168.1.10", "192.168.1.1", "fd00:192:168:1::10", "fd00:192:168:1::1"
IPIP, ICMP, UDP, IP6, GRE, FRAGMENT, DSTOPTS, HOPOPTS, ICMP6 = 4, 1, 17, 41, 47, 44, 60, 0, 58

def packed(address):
    return ipaddress.ip_address(address).packed

def mac(text):
    return bytes.fromhex(text.replace(":", ""))

def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

def ip4(source, target, protocol, payload, ttl=64, tos=0, options=b"", ihl=None, total=None, fragment=0, version=4, bad_sum=False):
    ihl = 5 + len(options) // 4 if ihl is None else ihl
    total = 20 + len(options) + len(payload) if total is None else total
    head = struct.pack("!BBHHHBBH", version << 4 | ihl, tos, total, 7, fragment, ttl, protocol, 0)
    head += packed(source) + packed(target) + options
    right = checksum(head)
    right ^= 0x5555 if bad_sum else 0
    return head[:10] + struct.pack("!H", right) + head[12:] + payload

def ip6(source, target, following, payload, hops=64, tos=0, length=None, version=6):
    first = version << 28 | tos << 20
    length = len(payload) if length is None else length
    return struct.pack("!IHBB", first, length, following, hops) + packed(source) + packed(target) + payload

def udp4(source, target, data, port=7, **more):
    return ip4(source, target, UDP, struct.pack("!HHHH", 40000, port, 8 + len(data), 0) + data, **more)

def udp6(source, target, data, port=7, **more):
    body = struct.pack("!HHHH", 40000, port, 8 + len(data), 0) + data
    total = checksum(packed(source) + packed(target) + struct.pack("!IBBBB", len(body), 0, 0, 0, UDP) + body)
    return ip6(source, target, UDP, body[:6] + struct.pack("!H", total or 0xffff) + body[8:], **more)

def ethernet(target, source, kind, payload):
    return mac(target) + mac(source) + struct.pack("!H", kind) + payload

def arp(sender_mac, sender, target, operation=1):
    return struct.pack("!HHBBH", 1, 0x800, 6, 4, operation) + mac(sender_mac) + packed(sender) + bytes(6) + packed(target)

def solicitation(source_mac, source, target):
    group = ipaddress.ip_address(int(ipaddress.ip_address("ff02::1:ff00:0")) | int(ipaddress.ip_address(target)) & 0xffffff)
    body = struct.pack("!BBHI", 135, 0, 0, 0) + packed(target) + b"\1\1" + mac(source_mac)
    total = checksum(packed(source) + group.packed + struct.pack("!IBBBB", len(body), 0, 0, 0, ICMP6) + body)
    body = body[:2] + struct.pack("!H", total) + body[4:]
    return str(group), ip6(source, str(group), ICMP6, body, hops=255)

class World:
    def __init__(self, text):
        self.__dict__.update(json.loads(text))

    def mark(self, who):
        # Eight times, for a mutation spoils one or two; and none makes one tenant's of another's.
        return b"<<%s>>" % (who.encode() * 8) * 8

    def wire(self, packet):
        kind = 0x86dd if packet[0] >> 4 == 6 else 0x800
        return ethernet(self.server_mac, self.peer_mac, kind, packet)

    def outer(self, who, protocol, payload, **more):
        """The outer IP packet of a tenant's gateway, of whatever version the world has outside."""
        t = self.tenants[who]
        remote = more.pop("remote", t["remote"])
        make = ip6 if ":" in t["local"] else ip4
        return make(remote, t["local"], protocol, payload, **more)

    def shim(self, who, inner, key=None, kind=None):
        """Protocol number and payload that carry `inner` (a packet, or a frame for VXLAN)."""
        t = self.tenants[who]
        key = t["key"] if key is None else key
        kind = kind or t["kind"]
        six = inner[:1] and inner[0] >> 4 == 6
        if kind == "ipip":
            return IP6 if six else IPIP, inner
        if kind == "gre":
            return GRE, struct.pack("!HHI", 0x2000, 0x86dd if six else 0x800, key) + inner
        body = struct.pack("!II", 0x08000000, key << 8) + inner
        return UDP, struct.pack("!HHHH", 50000, 4789, 8 + len(body), 0) + body

    def frame(self, who, packet):
        """What a VXLAN site puts around a packet; nothing for the others."""
        if self.tenants[who]["kind"] != "vxlan":
            return packet
        kind = 0x86dd if packet[0] >> 4 == 6 else 0x800
        return ethernet(self.tenants[who]["mac"], "02:00:5e:00:53:0a", kind, packet)

    def through(self, who, packet, **outer):
        return self.wire(self.outer(who, *self.shim(who, self.frame(who, packet)), **outer))

def cases(w):
    made = []

    def case(name, frames, *reasons, rx=None):
        """`reasons`: VLAN/NAME; `rx`: the VLAN whose site's packets these count as. None of both: not ours."""
        names = list(reasons) + (["%d/rx" % rx] if rx else [])
        made.append((name, frames if isinstance(frames, list) else [frames], names))

    four = ":" not in w.tenants["a"]["local"]
    a, b, c = (w.tenants[n]["vlan"] for n in "abc")

    for who in "abc":
        vlan, mark = w.tenants[who]["vlan"], w.mark(who)
        case("fine packets of %s" % who, [w.through(who, udp4(HOST4, SERVER4, mark)), w.through(who, udp6(HOST6, SERVER6, mark))], rx=vlan)
        # Truncated at every byte behind the outer IP header, once as the wire would (lengths disagree) ...
        whole = w.through(who, udp4(HOST4, SERVER4, mark))
        header = 34 if four else 54
        behind_udp = 8 if w.tenants[who]["kind"] == "vxlan" else 0
        case("cut frames of %s" % who, [whole[:n] for n in range(header + behind_udp, len(whole))], "0/outer_length")
        # ... and once by a sender whose outer lengths are right.
        protocol, body = w.shim(who, w.frame(who, udp4(HOST4, SERVER4, mark)))
        frames = []
        for n in range(behind_udp, len(body)):
            part = body[:n]
            if behind_udp:
                part = part[:4] + struct.pack("!H", n) + part[6:]
            frames.append(w.wire(w.outer(who, protocol, part)))
        case("short packets of %s" % who, frames, "0/outer_truncated", "0/outer_length", "%d/inner_truncated" % vlan, "%d/inner_length" % vlan)
        for name, inner, reason in [
            ("version 5", udp4(HOST4, SERVER4, mark, version=5), "inner_header"),
            ("header of 16 bytes", udp4(HOST4, SERVER4, mark, ihl=4), "inner_header"),
            ("length zero", udp4(HOST4, SERVER4, mark, total=0), "inner_length"),
            ("length beyond the end", udp4(HOST4, SERVER4, mark, total=1400), "inner_length"),
            ("wrong checksum", udp4(HOST4, SERVER4, mark, bad_sum=True), "inner_checksum"),
            ("options with a wrong checksum", udp4(HOST4, SERVER4, mark, options=b"\1\1\1\0", bad_sum=True), "inner_checksum"),
            ("IPv6 length beyond the end", udp6(HOST6, SERVER6, mark, length=1400), "inner_length"),
            ("IPv6 jumbogram", ip6(HOST6, SERVER6, HOPOPTS, bytes([UDP, 0, 0xc2, 4, 0, 1, 0, 0]) + mark, length=0), "inner_length"),
            ("source of somebody else", udp4("10.9.9.9", SERVER4, mark), "inner_source"),
            ("IPv6 source of somebody else", udp6("2001:db8:9::9", SERVER6, mark), "inner_source"),
        ]:
            case("%s: %s" % (who, name), w.through(who, inner), "%d/%s" % (vlan, reason))
        case("%s: IP options, fragments" % who, [
            w.through(who, udp4(HOST4, SERVER4, mark, options=b"\1\1\1\0")),
            w.through(who, ip4(HOST4, SERVER4, UDP, mark, fragment=0x2000)),
            w.through(who, ip4(HOST4, SERVER4, UDP, mark, fragment=0x0100)),
            w.through(who, ip6(HOST6, SERVER6, FRAGMENT, struct.pack("!BBHI", UDP, 0, 1, 9) + mark)),
        ], rx=vlan)
        # A tunnel in a tunnel: the inner one is the tenant's own affair, it is not opened here.
        for other in "abc":
            nested = w.shim(other, w.frame(other, udp4(HOST4, SERVER4, mark)))
            case("%s: the tunnel of %s inside" % (who, other), w.through(who, ip4(HOST4, SERVER4, nested[0], nested[1])), rx=vlan)

    for who in "ac":
        vlan, mark = w.tenants[who]["vlan"], w.mark(who)
        for name, inner, reason in [
            ("lifetime 1", udp4(HOST4, SERVER4, mark, ttl=1), "ttl_expired"),
            ("lifetime 0", udp4(HOST4, SERVER4, mark, ttl=0), "ttl_expired"),
            ("hop limit 1", udp6(HOST6, SERVER6, mark, hops=1), "ttl_expired"),
            ("from loopback", udp4("127.0.0.1", SERVER4, mark), "link_scope"),
            ("from link-local", udp4("169.254.1.1", SERVER4, mark), "link_scope"),
            ("to all on the link", udp4(HOST4, "224.0.0.1", mark), "link_scope"),
            ("to everybody", udp4(HOST4, "255.255.255.255", mark), "link_scope"),
            ("from ::1", udp6("::1", SERVER6, mark), "link_scope"),
            ("to ff02::1", udp6(HOST6, "ff02::1", mark), "link_scope"),
        ]:
            case("%s: %s" % (who, name), w.through(who, inner), "%d/%s" % (vlan, reason))

    fine = udp4(HOST4, SERVER4, w.mark("a"))
    stranger = "192.0.2.77" if four else "2001:db8:77::7"
    case("a stranger", [w.wire(w.outer(n, *w.shim(n, w.frame(n, fine)), remote=stranger)) for n in "abc"], "0/unknown_tunnel")
    case("another kind than agreed", [w.wire(w.outer("a", *w.shim("c", fine))), w.wire(w.outer("c", IPIP, fine))], "0/unknown_key")
    case("the key of nobody", [
        w.wire(w.outer("c", *w.shim("c", fine, key=77))),
        w.wire(w.outer("c", GRE, struct.pack("!HH", 0, 0x800) + fine)),
        w.wire(w.outer("b", *w.shim("b", w.frame("b", fine), key=77))),
        # The right key, but of another customer's gateway.
        w.wire(w.outer("a", *w.shim("c", fine))),
        w.wire(w.outer("a", *w.shim("b", w.frame("b", fine)))),
    ], "0/unknown_key")
    key = struct.pack("!I", w.tenants["c"]["key"])
    flags = [0x8000, 0x4000, 0x1000, 0x0800, 0x0001, 0x2001, 0xb000, 0x20f8]
    case("GRE with flags", [w.wire(w.outer("c", GRE, struct.pack("!HH", f, 0x800) + key * 4 + fine)) for f in flags], "0/gre_flags")
    case("GRE with other things", [w.wire(w.outer("c", GRE, struct.pack("!HH", 0x2000, p) + key + fine)) for p in (0x6558, 0x88be, 0x8100, 0)], "0/gre_protocol")
    vxlan = lambda first, second: struct.pack("!HHHHII", 50000, 4789, 16 + 14 + len(fine), 0, first, second) + w.frame("b", fine)
    vni = w.tenants["b"]["key"] << 8
    case("VXLAN with other bits", [w.wire(w.outer("b", UDP, vxlan(*v))) for v in ((0, vni), (0x0c000000, vni), (0x08000001, vni), (0x08000000, vni | 1))], "0/vxlan_header")
    case("UDP lengths that lie", [w.wire(w.outer("b", UDP, vxlan(0x08000000, vni)[:4] + struct.pack("!H", n) + vxlan(0x08000000, vni)[6:])) for n in (0, 7, 9, 1000)], "0/outer_length")
    inside = lambda kind, body: w.wire(w.outer("b", *w.shim("b", ethernet(w.tenants["b"]["mac"], "02:00:5e:00:53:0a", kind, body))))
    tag = lambda vlan, kind, body: struct.pack("!HH", vlan, kind) + body
    # It is the tenant's own network that the frame is in, but nobody there has that address.
    to = lambda target: w.wire(w.outer("b", *w.shim("b", ethernet(target, "02:00:5e:00:53:0a", 0x800, fine))))
    case("to another MAC address", [to(m) for m in (w.tenants["a"]["mac"], w.tenants["c"]["mac"], "02:00:5e:00:53:77", "00:00:00:00:00:00")], "%d/port_destination_mac" % b)
    case("a tag inside", [
        inside(0x8100, tag(a, 0x800, fine)), inside(0x8100, tag(c, 0x800, fine)), inside(0x88a8, tag(a, 0x800, fine)),
        inside(0x8100, tag(b, 0x8100, tag(a, 0x800, fine))), inside(0x88a8, tag(a, 0x8100, tag(c, 0x800, fine))),
    ], "%d/inner_tagged" % b)
    case("frames of other kinds", [inside(k, fine) for k in (0x88cc, 0x8847, 0x0042, 0x9100, 0x8035)], "%d/inner_ethertype" % b)
    case("ARP of an address of somebody else", inside(0x806, arp("02:00:5e:00:53:0a", "10.9.9.9", SERVER4)), "%d/inner_source" % b)
    case("ARP cut short", inside(0x806, arp("02:00:5e:00:53:0a", HOST4, SERVER4)[:20]), "%d/inner_truncated" % b)
    case("congestion over a packet that cannot carry the mark", [
        w.through("a", udp4(HOST4, SERVER4, w.mark("a")), tos=3), w.through("b", udp4(HOST4, SERVER4, w.mark("b")), tos=3),
        w.through("c", udp6(HOST6, SERVER6, w.mark("c")), tos=3),
    ], *("%d/ecn_ce_not_ect" % v for v in (a, b, c)))

    outer = lambda **more: [w.wire(w.outer(n, *w.shim(n, w.frame(n, fine)), **more)) for n in "ac"]
    if four:
        case("outer version 5", outer(version=5), "0/outer_header")
        case("outer header of 16 bytes", outer(ihl=4), "0/outer_header")
        case("outer options", outer(options=b"\1\1\1\0"), "0/outer_options")
        case("outer checksum", outer(bad_sum=True), "0/outer_checksum")
        case("outer fragments", outer(fragment=0x2000) + outer(fragment=1) + outer(fragment=0x2001), "0/outer_fragment")
        case("outer length zero", outer(total=0), "0/outer_length")
        case("outer length below the header", outer(total=19), "0/outer_length")
        case("outer length beyond the end", outer(total=1400), "0/outer_length")
    else:
        case("outer version 5", [f[:14] + bytes([0x50]) + f[15:] for f in outer()], "0/outer_header")
        case("outer length zero", outer(length=0), "0/outer_length")
        case("outer length beyond the end", outer(length=1400), "0/outer_length")
        fragment = lambda n, offset: w.wire(w.outer(n, FRAGMENT, struct.pack("!BBHI", w.shim(n, fine)[0], 0, offset, 9) + w.shim(n, fine)[1]))
        case("outer fragments", [fragment(n, o) for n in "ac" for o in (1, 8, 9)], "0/outer_fragment")
        options = lambda n, blocks: w.wire(w.outer(n, DSTOPTS, bytes([w.shim(n, fine)[0], blocks - 1, 4, 1, 4, 1, 1, 0]) + bytes([1, 6] + [0] * 6) * (blocks - 1) + w.shim(n, fine)[1]))
        case("an encapsulation limit", [options("a", 1)], rx=a)
        case("more outer options", [options(n, m) for n in "ac" for m in (2, 3)], "0/outer_options")
        case("outer hop-by-hop options", w.wire(w.outer("a", HOPOPTS, bytes([IPIP, 0, 1, 4, 0, 0, 0, 0]) + fine)))
    case("other traffic", [w.wire(w.outer("a", UDP, struct.pack("!HHHH", 40000, 9, 8, 0))), w.wire(w.outer("a", 89, bytes(40))), ethernet(w.server_mac, w.peer_mac, 0x88cc, bytes(60))])
    return made

def congestion(w, who):
    """Every pair of marks (RFC 6040 section 4.2); the port tells outer and inner."""
    for pair in range(16):
        outer, more = pair // 4, {"port": 10000 + pair, "tos": 0xb8 | pair % 4}
        yield w.through(who, udp4(HOST4, SERVER4, w.mark(who), **more), tos=0x20 | outer)
        yield w.through(who, udp6(HOST6, SERVER6, w.mark(who), **more), tos=0x20 | outer)

def tenant_cases(w):
    """What root inside tenant a may send out of its port; the reasons are of its status."""
    t, mark = w.tenants["a"], w.mark("a")
    own, gateway = t["mac"], t["gateway_mac"]
    fine = udp4(SERVER4, HOST4, mark)
    made = []

    def case(name, frames, *reasons):
        made.append((name, frames if isinstance(frames, list) else [frames], list(reasons)))

    tag = lambda vlan, kind, body: struct.pack("!HH", vlan, kind) + body
    others = [w.tenants[n]["vlan"] for n in "bc"]
    case("the tag of another tenant", [ethernet(gateway, own, 0x8100, tag(v, 0x800, fine)) for v in others], "port_tagged_from_port")
    case("the own tag", ethernet(gateway, own, 0x8100, tag(t["vlan"], 0x800, fine)), "port_tagged_from_port")
    case("two tags", [ethernet(gateway, own, outer, tag(t["vlan"], 0x8100, tag(v, 0x800, fine))) for v in others for outer in (0x8100, 0x88a8)], "port_tagged_from_port")
    case("priority tags", ethernet(gateway, own, 0x8100, tag(0xe000, 0x800, fine)), "port_tagged_from_port")
    macs = ["02:00:5e:00:53:0a", gateway, w.tenants["b"]["mac"], "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00"]
    case("another MAC address", [ethernet(gateway, m, 0x800, fine) for m in macs], "port_source_mac")
    case("another MAC address inside ARP", ethernet(gateway, own, 0x806, arp("02:00:5e:00:53:0a", SERVER4, HOST4)), "port_source_mac")
    case("other kinds of frames", [ethernet(gateway, own, k, fine) for k in (0x88cc, 0x8847, 0x0042, 0x9100, 0x8863)], "port_ethertype", "port_tagged_from_port")
    case("cut frames", [ethernet(gateway, own, 0x800, fine)[:n] for n in range(15, 34)], "port_truncated")
    case("lengths that lie", [ethernet(gateway, own, 0x800, f) for f in (
        udp4(SERVER4, HOST4, mark, total=0), udp4(SERVER4, HOST4, mark, total=19), udp4(SERVER4, HOST4, mark, total=1400))] +
        [ethernet(gateway, own, 0x86dd, udp6(SERVER6, HOST6, mark, length=1400))], "port_ip_total_length")
    case("header lengths that lie", [ethernet(gateway, own, 0x800, udp4(SERVER4, HOST4, mark, ihl=n)) for n in (0, 4)], "port_ip_header_length")
    case("versions that lie", [ethernet(gateway, own, 0x800, udp4(SERVER4, HOST4, mark, version=6)), ethernet(gateway, own, 0x86dd, fine + bytes(40))], "port_ip_version")
    case("wrong checksum", ethernet(gateway, own, 0x800, udp4(SERVER4, HOST4, mark, bad_sum=True)), "access_inner_checksum")
    case("ARP for addresses of nobody", [ethernet("ff:ff:ff:ff:ff:ff", own, 0x806, arp(own, SERVER4, x)) for x in ("10.9.9.9", "203.0.113.1")], "port_arp_outside")
    case("ARP that says nothing", [ethernet("ff:ff:ff:ff:ff:ff", own, 0x806, arp(own, s, x)) for s, x in (("0.0.0.0", HOST4), (SERVER4, SERVER4))], "port_arp_silent")
    case("ARP of another kind", [ethernet("ff:ff:ff:ff:ff:ff", own, 0x806, struct.pack("!H", 6) + arp(own, SERVER4, HOST4)[2:])], "port_arp_malformed")
    case("to nowhere", ethernet(gateway, own, 0x800, udp4(SERVER4, "10.9.9.9", mark)), "access_no_site")
    case("to the link", [ethernet(gateway, own, 0x800, udp4(SERVER4, "192.168.1.10", mark, ttl=1))], "access_ttl_expired")
    return made

# What stacks say of themselves at any time, in a layer 2 network also to each other: no case depends on it.
NOISE = ("port_link_local_scope", "arp_consumed", "601/rx", "603/rx", "601/no_site", "603/no_site")

def ask(daemon, path):
    connection = http.client.HTTPConnection(daemon)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect("/run/%s/main/api.sock" % daemon)
    connection.request("GET", path)
    answer = json.load(connection.getresponse())
    connection.close()
    return answer

def outside_counters():
    """VLAN/REASON, with those of the tenants' ports, and VLAN/rx for what was received."""
    counters = {}
    for vlan, who in enumerate("abcd", 600):
        drops = ask("tenantd", "/v1/tenants/tenant-%s/status" % who)["counters"]["drops"]
        counters.update(("%d/%s" % (vlan, name), n) for name, n in drops.items() if name.startswith("port_"))
    for row in ask("access-server", "/v1/counters"):
        counters["%d/rx" % row["vlan"]] = row["rx_packets"]
        counters.update(("%d/%s" % (row["vlan"], reason), n) for reason, n in row["drops"].items())
    return counters

def inside_counters():
    return ask("tenantd", "/v1/tenants/tenant-a/status")["counters"]["drops"]

def judge(device, cases, read):
    """Every frame of a case is counted under one of its names, and nothing else is counted meanwhile."""
    out = raw(device)
    for name, frames, names in cases:
        before, until = read(), time.monotonic() + 15
        for frame in frames:
            out.send(frame)
        # Up to five packets of the stacks may be taken for those of a case.
        most = len(frames) + (5 if any(n.endswith(NOISE) for n in names) else 0)
        while True:
            counted = {n: v - before.get(n, 0) for n, v in read().items() if v > before.get(n, 0)}
            others = [n for n in counted if n not in names and not n.endswith(NOISE)]
            if not others and (not names or len(frames) <= sum(counted.get(n, 0) for n in names) <= most):
                break
            if time.monotonic() > until:
                print("%s: %d frames, expected under %s, counted %s" % (name, len(frames), names, counted))
                break
            time.sleep(0.01)
    print(len(cases))

def mutate(random, frame, keep, four):
    """A packet that is fine no more. Bytes `keep` are left: a packet with another customer's address would be theirs."""
    data = bytearray(frame)
    for _ in range(random.choice((0, 1, 1, 2, 4, 16))):
        place = random.randrange(14, len(data))
        if place not in keep:
            data[place] = random.choice((0, 1, 0xff, 0x7f, 0x80, random.randrange(256), data[place] ^ 1 << random.randrange(8)))
    what = random.randrange(8)
    if what == 0:
        del data[random.randrange(34, len(data)):]
    elif what == 1:
        place = random.randrange(max(keep) + 1, len(data))
        data[place:place] = random.randbytes(random.randrange(1, 60))
    elif what == 2:
        place = random.randrange(max(keep) + 1, len(data))
        del data[place:place + random.randrange(1, 30)]
    elif what == 3:
        data += data[random.randrange(14, len(data)):]
    if random.randrange(4):
        # Past the first checks: right outer lengths and checksum.
        if four and len(data) >= 34:
            data[16:18] = struct.pack("!H", len(data) - 14)
            data[24:26] = b"\0\0"
            data[24:26] = struct.pack("!H", checksum(bytes(data[14:34])))
        elif not four and len(data) >= 54:
            data[18:20] = struct.pack("!H", len(data) - 54)
    return bytes(data[:1500])

def templates(w, who):
    mark = w.mark(who)
    inner = [udp4(HOST4, SERVER4, mark), udp6(HOST6, SERVER6, mark), udp4(HOST4, SERVER4, mark, options=b"\1" * 8),
             ip4(HOST4, SERVER4, ICMP, b"\x08\0" + struct.pack("!HHH", checksum(b"\x08\0\0\0\0\1\0\1" + mark), 1, 1) + mark),
             ip4(HOST4, SERVER4, 6, struct.pack("!HHIIBBHHH", 40000, 80, 1, 0, 0x60, 2, 1000, 0, 0) + b"\2\4\5\xb4" + mark)]
    frames = [w.through(who, p) for p in inner]
    if w.tenants[who]["kind"] == "vxlan":
        t = w.tenants[who]
        question = ethernet("ff:ff:ff:ff:ff:ff", "02:00:5e:00:53:0a", 0x806, arp("02:00:5e:00:53:0a", HOST4, SERVER4))
        group, ask = solicitation("02:00:5e:00:53:0a", HOST6, SERVER6)
        frames += [w.wire(w.outer(who, *w.shim(who, f))) for f in (question, ethernet("33:33:ff:00:00:01", "02:00:5e:00:53:0a", 0x86dd, ask))]
    return frames

def fuzz(device, w, seed, count):
    chance = random.Random(seed)
    four = ":" not in w.tenants["a"]["local"]
    keep = set(range(26, 30)) if four else set(range(22, 38))
    models = [f for who in "abc" for f in templates(w, who)]
    out = raw(device)
    for n in range(count):
        send(out, mutate(chance, chance.choice(models), keep, four))
        pace(n)
    print(count)

def fuzz_tenant(device, w, seed, count):
    chance = random.Random(seed)
    t, mark = w.tenants["a"], w.mark("a")
    group, ask = solicitation(t["mac"], SERVER6, HOST6)
    models = [ethernet(t["gateway_mac"], t["mac"], 0x800, udp4(SERVER4, HOST4, mark)), ethernet(t["gateway_mac"], t["mac"], 0x86dd, udp6(SERVER6, HOST6, mark)),
              ethernet("ff:ff:ff:ff:ff:ff", t["mac"], 0x806, arp(t["mac"], SERVER4, HOST4)), ethernet("33:33:ff:00:00:10", t["mac"], 0x86dd, ask),
              ethernet(t["gateway_mac"], t["mac"], 0x8100, struct.pack("!HH", w.tenants["b"]["vlan"], 0x800) + udp4(SERVER4, HOST4, mark))]
    out = raw(device)
    for n in range(count):
        data = bytearray(chance.choice(models))
        for _ in range(chance.choice((1, 2, 4, 16))):
            data[chance.randrange(0, len(data))] = chance.randrange(256)
        if not chance.randrange(4):
            del data[chance.randrange(14, len(data)):]
        send(out, bytes(data))
        pace(n)
    print(count)

def fuzz_super(device, w, seed, count):
    """With a virtio_net_hdr before each frame (packet(7), PACKET_VNET_HDR): the kernel takes it for a super-packet."""
    chance = random.Random(seed)
    t, mark = w.tenants["a"], w.mark("a")
    out, sent = raw(device), 0
    out.setsockopt(263, 15, 1)
    for n in range(count):
        data = mark * chance.choice((1, 10, 50, 400))
        six = chance.randrange(2)
        tcp = struct.pack("!HHIIBBHHH", 40000, 80, 1, 0, chance.choice((0x50, 0x50, 0x60, 0xf0, 0)), 0x10, 1000, 0, 0) + data
        udp = struct.pack("!HHHH", 40000, 7, 8 + len(data), 0) + data
        kind = chance.choice((1, 1, 4, 4, 3, 5, 0x81))  # TCP over IPv4, over IPv6, UDP fragments, UDP segments, with ECN
        body, protocol = (udp, UDP) if kind in (3, 5) else (tcp, 6)
        packet = ip6(SERVER6, HOST6, protocol, body) if six else ip4(SERVER4, HOST4, protocol, body)
        head = 14 + (40 if six else 20)
        header = struct.pack("<BBHHHH", chance.choice((0, 1, 1, 1)), kind, chance.choice((head + 8, head + 20, 0, 65535)),
                             chance.choice((1, 8, 100, 500, 1000, 1428, 1440, 1460, 9000, 65535)),
                             chance.choice((head, head, 0, 14)), chance.choice((16, 6)))
        try:
            out.send(header + ethernet(t["gateway_mac"], t["mac"], 0x86dd if six else 0x800, packet))
            sent += 1
        except OSError as e:
            if e.errno not in (12, 22, 90, 105):
                raise
    print(sent)

def flood(device, what, seconds, w):
    """Questions from ever new addresses, as fast as one process can."""
    chance = random.Random(1)
    frames = []
    for n in range(2000):
        host = "10.%d.%d.%d" % (chance.randrange(256), chance.randrange(256), chance.randrange(1, 255))
        if what == "tunnel-arp":
            frames.append(w.wire(w.outer("d", *w.shim("d", ethernet("ff:ff:ff:ff:ff:ff", "02:00:5e:00:53:0a", 0x806, arp("02:00:5e:00:53:0a", host, SERVER4))))))
        elif what == "tunnel-nd":
            host = "fd00:10::%x:%x" % (chance.randrange(65536), chance.randrange(65536))
            group, ask = solicitation("02:00:5e:00:53:0a", host, SERVER6)
            frames.append(w.wire(w.outer("d", *w.shim("d", ethernet("33:33:ff:00:00:01", "02:00:5e:00:53:0a", 0x86dd, ask)))))
        elif what == "tenant-arp":
            own = w.tenants["a"]["mac"]
            frames.append(ethernet("ff:ff:ff:ff:ff:ff", own, 0x806, arp(own, SERVER4, "192.168.1.%d" % chance.randrange(2, 255))))
        elif what == "tenant-nd":
            own = w.tenants["a"]["mac"]
            group, ask = solicitation(own, SERVER6, "fd00:192:168:1::%x" % chance.randrange(2, 65536))
            frames.append(ethernet("33:33:ff:00:00:01", own, 0x86dd, ask))
    out, sent, until = raw(device), 0, time.monotonic() + seconds
    # Long enough, and a flood also where this process is hardly let run.
    while time.monotonic() < until or sent < 4000:
        for frame in frames[sent % 2000:sent % 2000 + 100]:
            send(out, frame)
        sent += 100
    print(sent)

def pace(n):
    # The captures beside us must not lose a packet.
    if n % 100 == 99:
        time.sleep(0.005)

def raw(device):
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.bind((device, 0))
    return out

def send(out, frame):
    try:
        out.send(frame)
    except OSError as e:
        # Shorter than an Ethernet header or longer than the device takes: the kernel of the attacker refuses.
        if e.errno not in (22, 90, 105):
            raise

verb, device, arguments = sys.argv[1], sys.argv[2], sys.argv[4:]
w = World(sys.argv[3])
if verb == "outside":
    judge(device, cases(w), outside_counters)
elif verb == "inside":
    judge(device, tenant_cases(w), inside_counters)
elif verb == "congestion":
    for frame in congestion(w, arguments[0]):
        raw(device).send(frame)
elif verb == "jumbo":
    for packet in (udp4(HOST4, SERVER4, w.mark("a") * 40), udp6(HOST6, SERVER6, w.mark("a") * 40)):
        raw(device).send(w.through("a", packet))
elif verb == "fuzz":
    fuzz(device, w, int(arguments[0]), int(arguments[1]))
elif verb == "fuzz-tenant":
    fuzz_tenant(device, w, int(arguments[0]), int(arguments[1]))
elif verb == "fuzz-super":
    fuzz_super(device, w, int(arguments[0]), int(arguments[1]))
elif verb == "flood":
    flood(device, arguments[0], float(arguments[1]), w)
