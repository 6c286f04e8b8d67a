"use strict";
// What it shows comes from the configuration and from peers: it is set as text, never as HTML.
(() => {
  const EVERY = 2000, PAGE = 200, MOST_DRAWN = 60, SAMPLES = 90;
  const $ = id => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const WORDS = { up: ["✓", "up"], down: ["✕", "down"], part: ["!", "partly up"], poor: ["!", "up, not well"], idle: ["○", "not asked for"] };

  /** An element with attributes and children; texts become text nodes. */
  function make(parent, name, attributes, ...children) {
    const it = parent === SVG ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined) it.setAttribute(key, String(value));
    }
    it.append(...children.filter(child => child !== null && child !== undefined));
    return it;
  }
  const el = (name, attributes, ...children) => make(null, name, attributes, ...children);
  const svg = (name, attributes, ...children) => make(SVG, name, attributes, ...children);
  /** Sets a text only where it is another one, so that whoever listens or selects is not disturbed. */
  const say = (node, text) => { if (node.textContent !== text) node.textContent = text; };
  const put = (node, name, value) => { if (node.getAttribute(name) !== String(value)) node.setAttribute(name, String(value)); };

  let overview = null, skew = 0, lost = null, shown = PAGE;
  const history = new Map(); // by name: { traffic, at, rx, tx, samples }
  const now = () => Date.now() / 1000 + skew;

  // ---- words and numbers
  const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
  function ago(seconds) {
    const s = Math.max(0, Math.round(seconds));
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
    return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
  }
  function scaled(value, units, step) {
    let unit = 0;
    while (value >= step && unit < units.length - 1) { value /= step; unit += 1; }
    return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
  }
  const bits = rate => scaled(rate * 8, ["b/s", "kb/s", "Mb/s", "Gb/s", "Tb/s"], 1000);
  const octets = n => scaled(n, ["B", "kB", "MB", "GB", "TB"], 1000);
  const clock = at => new Date(at * 1000).toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" });
  const within = at => at === null ? null : at > now() ? `in ${ago(at - now())}` : "now";
  const since = at => at === null ? null : `${ago(now() - at)} ago`;
  const rates = past => past && past.rx !== null ? `↓ ${bits(past.rx)}  ↑ ${bits(past.tx)}` : "";
  function stateOf(line) {
    if (line.missing > 0) return line.up > 0 ? "part" : "down";
    if (line.degraded > 0) return "poor";
    return line.up > 0 ? "up" : "idle";
  }
  function mark(state) {
    return [el("span", { class: `mark ${state}`, "aria-hidden": "true" }, WORDS[state][0]), ` ${WORDS[state][1]}`];
  }
  const hrefOf = name => `#/tunnel/${encodeURIComponent(name)}`;

  // ---- asking
  const tags = new Map();
  /** The answer, or null if it is what we have. */
  async function ask(path) {
    const known = tags.get(path);
    const answer = await fetch(path, { cache: "no-store", headers: known ? { "If-None-Match": known } : {} });
    if (answer.status === 304) return null;
    if (!answer.ok) throw new Error(answer.status === 404 ? "gone" : `the gateway answers ${answer.status}`);
    const body = await answer.json();
    if (body.schema !== 1) throw new Error("this page is of another version than the gateway: load it again");
    tags.set(path, answer.headers.get("ETag"));
    skew = body.now - Date.now() / 1000;
    return body;
  }

  /** What went through since the last time, by connection. */
  function measure(lines, at) {
    const names = new Set();
    for (const { name, traffic } of lines) {
      names.add(name);
      const past = history.get(name);
      if (!past) {
        history.set(name, { traffic, at, rx: null, tx: null, samples: [] });
        continue;
      }
      const time = at - past.at;
      if (time < 0.2) continue;
      past.rx = Math.max(0, traffic.bytes_in - past.traffic.bytes_in) / time;
      past.tx = Math.max(0, traffic.bytes_out - past.traffic.bytes_out) / time;
      past.samples.push([past.rx, past.tx]);
      if (past.samples.length > SAMPLES) past.samples.shift();
      past.traffic = traffic;
      past.at = at;
    }
    for (const name of history.keys()) if (!names.has(name)) history.delete(name);
  }

  async function refresh() {
    try {
      const body = await ask("/api/overview");
      if (body) overview = body;
      measure(overview.connections, now());
      if (lost) lost = null;
    } catch (error) {
      lost = lost || { since: now(), why: "" };
      lost.why = error.message === "Failed to fetch" ? "no answer" : error.message;
    }
    render();
    await open();
  }

  // ---- the overview
  function render() {
    const live = $("live");
    if (lost) {
      say(live, `${lost.why} for ${ago(now() - lost.since)}: what is shown is old`);
      live.classList.add("lost");
    } else {
      say(live, "live");
      live.classList.remove("lost");
    }
    if (!overview) return;
    const { totals } = overview;
    const ought = totals.wanted > 0 ? `${totals.wanted - totals.missing} of ${totals.wanted} wanted up` : "nothing is asked to be up";
    const parts = [ought];
    if (totals.missing > 0) parts.push(`${totals.missing} down`);
    parts.push(count(totals.connections, "connection", "connections"));
    say($("sum"), parts.join(" · "));
    say($("version"), `Adit ${overview.version}`);
    document.title = totals.missing > 0 ? `(${totals.missing} down) Adit` : "Adit";
    if ($("overview").hidden) return;
    picture();
    list();
  }

  // ---- the list
  const rows = new Map();
  function chosen() {
    const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const which = document.querySelector("input[name=which]:checked").value;
    return overview.connections.filter(line => {
      const state = stateOf(line);
      if (which === "bad" && (state === "up" || state === "idle")) return false;
      if (which === "good" && line.up === 0) return false;
      if (words.length === 0) return true;
      const text = `${line.name} ${line.local} ${line.remote} ${line.address} ${line.reason || ""} ${WORDS[state][1]}`.toLowerCase();
      return words.every(word => text.includes(word));
    });
  }
  function noteOf(line, state) {
    if (!line.configured) return "no longer configured";
    if (state === "up") return line.since === null ? "" : `for ${ago(now() - line.since)}`;
    const next = line.next_attempt === null ? "" : `, again ${within(line.next_attempt)}`;
    return `${line.reason || ""}${next}`;
  }
  function row(line) {
    let it = rows.get(line.name);
    if (!it) {
      const cells = ["state", "name", "peer", "rate", "note"].map(name => el("span", { class: name }));
      const link = el("a", { class: "row", href: hrefOf(line.name) }, ...cells);
      it = { item: el("li", {}, link), link, cells, state: null };
      it.cells[1].textContent = line.name;
      it.cells[1].title = line.name;
      rows.set(line.name, it);
    }
    const state = stateOf(line);
    const [first, , peer, rate, note] = it.cells;
    if (it.state !== state) {
      first.replaceChildren(...mark(state));
      it.state = state;
    }
    const address = line.address && line.address !== line.remote ? ` at ${line.address}` : "";
    say(peer, `${line.remote}${address}`);
    say(rate, line.up > 0 ? rates(history.get(line.name)) : "");
    say(note, noteOf(line, state));
    return it.item;
  }
  function list() {
    const found = chosen(), all = overview.connections.length;
    const items = found.slice(0, shown).map(row);
    const box = $("rows");
    // What is there stays there: a focus or a selection in it as well.
    items.forEach((item, at) => { if (box.children[at] !== item) box.insertBefore(item, box.children[at] || null); });
    while (box.children.length > items.length) box.lastElementChild.remove();
    if (rows.size > 4 * PAGE + items.length) {
      for (const [name, it] of rows) if (!it.item.isConnected) rows.delete(name);
    }
    const left = found.length - items.length;
    $("more").hidden = left <= 0;
    say($("more"), `Show ${Math.min(left, PAGE)} more of ${left}`);
    const omitted = overview.omitted > 0 ? `; ${overview.omitted} more are not listed: use adit status` : "";
    say($("found"), all === 0 ? "No connection is configured." : found.length === all ? `${count(all, "connection", "connections")}${omitted}` : `${found.length} of ${count(all, "connection", "connections")}${omitted}`);
  }

  // ---- the picture
  let drawn = "", places = new Map();
  function picture() {
    const box = $("picture"), lines = overview.connections, width = Math.max(300, Math.round(box.clientWidth - 18));
    const narrow = width < 620;
    const many = lines.length > MOST_DRAWN || (narrow && lines.length > 14);
    const key = JSON.stringify([width, many, lines.map(line => [line.name, stateOf(line), line.remote])]);
    if (key !== drawn) {
      drawn = key;
      places = new Map();
      box.replaceChildren(lines.length === 0 ? el("p", { class: "quiet" }, "No connection is configured.") : many ? cells(lines, width) : sites(lines, width, narrow));
    }
    for (const [name, place] of places) {
      const past = history.get(name);
      const up = place.state === "up" || place.state === "part";
      const rate = up ? rates(past) : "";
      if (place.rate) say(place.rate, rate || place.address);
      if (place.link) {
        const flow = up && past && past.rx !== null ? Math.log10(1 + (past.rx + past.tx) * 8) : 0;
        put(place.link, "stroke-width", (1.5 + flow * 0.6).toFixed(1));
      }
    }
  }
  const cut = (text, most) => text.length > most ? `${text.slice(0, Math.max(1, most - 1))}…` : text;
  function openBy(node, name) { node.addEventListener("click", () => { location.hash = hrefOf(name); }); }
  function told(lines) {
    const totals = { up: 0, part: 0, down: 0, idle: 0 };
    lines.forEach(line => { totals[stateOf(line)] += 1; });
    return Object.keys(totals).filter(state => totals[state] > 0).map(state => `${totals[state]} ${WORDS[state][1]}`).join(", ");
  }
  /** Our gateway, and each site with its link. */
  function sites(lines, width, narrow) {
    const one = narrow || lines.length <= 6;
    const left = one ? [] : lines.filter((_, at) => at % 2 === 1), right = one ? lines : lines.filter((_, at) => at % 2 === 0);
    const step = 46, height = Math.max(right.length, 2) * step + 16;
    const hub = { w: narrow ? 92 : 170, h: 64 };
    hub.x = one ? hub.w / 2 + 4 : width / 2;
    hub.y = height / 2;
    const locals = [...new Set(lines.map(line => line.local))].filter(Boolean);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `This gateway and ${count(lines.length, "site", "sites")}: ${told(lines)}. The list below has the same.` });
    const links = svg("g", {}), nodes = svg("g", {});
    const side = (all, toLeft) => all.forEach((line, at) => {
      const state = stateOf(line), y = (at + 0.5) * (height / Math.max(all.length, 1));
      const x = toLeft ? width * 0.27 : one ? (narrow ? width * 0.42 : width * 0.55) : width * 0.73;
      const from = hub.x + (toLeft ? -hub.w / 2 : hub.w / 2), to = x + (toLeft ? 12 : -12), bend = (to - from) * 0.55;
      const link = svg("path", { class: `link ${state}`, d: `M ${from} ${hub.y} C ${from + bend} ${hub.y} ${to - bend} ${y} ${to} ${y}`, "stroke-width": 1.5 });
      links.append(link);
      const text = x + (toLeft ? -20 : 20), anchor = toLeft ? "end" : "start";
      const room = Math.floor((toLeft ? text : width - text) / 7.4);
      const rate = svg("text", { class: "small", x: text, y: y + 14, "text-anchor": anchor }, cut(line.address || line.remote, room));
      const node = svg("g", { class: "site" },
        svg("title", {}, `${line.name}: ${WORDS[state][1]}${line.reason ? `, ${line.reason}` : ""}`),
        svg("circle", { class: `dot ${state}`, cx: x, cy: y, r: 12, "stroke-width": 1.5 }),
        svg("text", { class: `glyph ${state}`, x, y: y + 4.5 }, WORDS[state][0]),
        svg("text", { class: "name strong", x: text, y: y - 1, "text-anchor": anchor }, cut(line.name, room)), rate);
      openBy(node, line.name);
      nodes.append(node);
      places.set(line.name, { link, rate, state, address: cut(line.address || line.remote, room) });
    });
    side(left, true);
    side(right, false);
    root.append(links,
      svg("rect", { class: "hub", x: hub.x - hub.w / 2, y: hub.y - hub.h / 2, width: hub.w, height: hub.h, rx: 10 }),
      svg("text", { class: "strong", x: hub.x, y: hub.y - 4, "text-anchor": "middle" }, narrow ? "gateway" : "this gateway"),
      svg("text", { class: "small", x: hub.x, y: hub.y + 14, "text-anchor": "middle" }, cut(locals.length === 1 ? locals[0] : `${locals.length} identities`, narrow ? 13 : 25)), nodes);
    return root;
  }
  /** Where there are too many for a picture of each: a cell for each, what needs somebody first. */
  function cells(lines, width) {
    const order = { down: 0, part: 1, idle: 2, up: 3 };
    const sorted = [...lines].sort((a, b) => order[stateOf(a)] - order[stateOf(b)]);
    const size = lines.length > 400 ? 22 : 26, across = Math.max(1, Math.floor(width / size)), height = Math.ceil(lines.length / across) * size + 2;
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${count(lines.length, "tunnel", "tunnels")}: ${told(lines)}. The list below has the same.` });
    sorted.forEach((line, at) => {
      const state = stateOf(line), x = (at % across) * size, y = Math.floor(at / across) * size;
      const cell = svg("g", { class: "site" },
        svg("title", {}, `${line.name}: ${WORDS[state][1]}${line.reason ? `, ${line.reason}` : ""}`),
        svg("rect", { class: `dot ${state}`, x: x + 1.5, y: y + 1.5, width: size - 4, height: size - 4, rx: 4 }),
        svg("text", { class: `glyph ${state}`, x: x + size / 2 - 0.5, y: y + size / 2 + 4 }, WORDS[state][0]));
      openBy(cell, line.name);
      root.append(cell);
      places.set(line.name, { state });
    });
    return root;
  }

  // ---- one tunnel
  let opened = null, last = null;
  const wish = () => location.hash.startsWith("#/tunnel/") ? decode(location.hash.slice(9)) : null;
  function decode(text) { try { return decodeURIComponent(text); } catch { return null; } }
  async function open() {
    const name = wish(), article = $("tunnel");
    const fresh = name !== opened;
    if (fresh) {
      opened = name;
      last = null;
      article.replaceChildren();
      $("overview").hidden = name !== null;
      article.hidden = name === null;
      if (name === null) { render(); return; }
    }
    if (name === null) return;
    const path = `/api/connection?name=${encodeURIComponent(name)}`;
    if (fresh) tags.delete(path);
    try {
      const body = await ask(path);
      if (body) last = body.connection;
    } catch (error) {
      if (error.message === "gone") last = { gone: true };
    }
    // Another one may have been chosen meanwhile.
    if (opened !== name || !last) return;
    const text = document.getSelection();
    // Whoever marks text in it to copy it keeps it.
    if (!fresh && text && !text.isCollapsed && article.contains(text.anchorNode)) return;
    const focus = article.contains(document.activeElement) ? document.activeElement.id : null;
    article.replaceChildren(...(last.gone ? gone(name) : tunnel(last)));
    if (fresh) { $("tunnel-title").focus(); window.scrollTo(0, 0); } else if (focus && $(focus)) $(focus).focus();
  }
  const back = () => el("a", { href: "#", id: "back" }, "← all tunnels");
  const title = name => el("h2", { tabindex: "-1", id: "tunnel-title" }, name);
  const gone = name => [el("header", {}, back(), title(name), el("p", {}, "There is no connection of this name, and no SA of it."))];
  const facts = pairs => el("dl", {}, ...pairs.filter(pair => pair[1] !== null && pair[1] !== undefined && pair[1] !== "").flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  const card = (heading, ...rest) => el("section", { class: "card" }, el("h3", {}, heading), ...rest);

  function tunnel(c) {
    const line = overview && overview.connections.find(other => other.name === c.name);
    const up = c.children.filter(child => child.up).length, missing = c.children.filter(child => child.wanted && !child.up).length;
    const state = stateOf({ up, missing, degraded: c.children.filter(child => child.up && child.explained.state === "degraded").length });
    const past = history.get(c.name);
    const flow = el("p", { class: "flow num" },
      el("span", {}, "from the peer ", el("b", {}, past && past.rx !== null ? bits(past.rx) : "…")),
      el("span", {}, "to the peer ", el("b", {}, past && past.tx !== null ? bits(past.tx) : "…")));
    const parts = [el("header", {}, back(), title(c.name), el("p", {}, ...mark(state), line ? `, ${noteOf(line, state) || "…"}` : ""), flow, spark(past))];
    parts.push(...explanations(c));
    parts.push(el("div", { class: "two" }, ends(c), ...c.ike_sas.map(ike)));
    parts.push(el("div", { class: "two" }, ...c.children.map(child)));
    parts.push(card("What happened", c.events.length === 0 ? el("p", { class: "quiet" }, "Nothing since the daemon started.") : el("ol", { class: "events" }, ...[...c.events].reverse().map(event))));
    return parts;
  }
  /** What there is to explain, as `adit explain` says it: what is the same of several children once. */
  function explanations(c) {
    const same = new Map();
    for (const child of c.children) {
      const e = child.explained;
      if (e.code === "up") continue;
      const key = JSON.stringify([e.state, e.code, e.cause]);
      if (!same.has(key)) same.set(key, { e, names: [] });
      same.get(key).names.push(child.name);
    }
    return [...same.values()].map(({ e, names }) => {
      const whose = names.length === c.children.length ? "it" : names.join(", ");
      const heading = { down: `Why ${whose} is not up`, degraded: `Why ${whose} is not well`, up: `What ${whose} has less than is configured` }[e.state];
      const sides = e.sides.length === 0 ? null : el("table", {},
        el("thead", {}, el("tr", {}, el("th", {}, ""), el("th", { scope: "col" }, "this gateway"), el("th", { scope: "col" }, "the peer"))),
        el("tbody", {}, ...e.sides.map(side => el("tr", {}, el("th", { scope: "row" }, side.label), el("td", {}, side.ours), el("td", {}, side.theirs)))));
      return el("section", { class: `card explain ${e.state}` }, el("h3", {}, heading), el("p", {}, e.cause),
        e.step ? el("p", {}, el("strong", {}, "To do: "), e.step) : null,
        facts([
          ["Code", e.code],
          [e.difference && e.difference.inferred ? "First difference, inferred" : "First difference", e.difference && e.difference.text],
          ["When", e.notes.join("; ")],
        ]), sides);
    });
  }
  const ends = c => card("Ends", facts([
    ["Our side", [c.local_id, c.local_addrs.join(", ")].filter(Boolean).join(" at ")],
    ["The peer", [c.remote_id, c.remote_addrs.join(", ")].filter(Boolean).join(" at ")],
    ["Interface", c.interface],
    ["", c.configured ? null : "no longer configured"],
  ]));
  const ike = sa => card(`IKE SA ${sa.id}: ${sa.state.toLowerCase()}`, facts([
    ["Our side", `${sa.local_id} at ${sa.local}${sa.nat_local ? ", behind a NAT" : ""}`],
    ["The peer", `${sa.remote_id} at ${sa.remote}${sa.nat_remote ? ", behind a NAT" : ""}`],
    ["Begun by", sa.initiator ? "us" : "the peer"],
    ["Algorithms", sa.suite],
    ["Post-quantum", sa.post_quantum ? "yes" : "no"],
    ["Established", since(sa.established)],
    ["New keys", within(sa.rekey_at)],
    ["Authentication anew", within(sa.reauth_at)],
  ]));
  function child(c) {
    const state = c.up ? (c.explained.state === "degraded" ? "poor" : "up") : c.wanted ? "down" : "idle";
    const sas = c.sas.map(sa => el("div", { class: "sa" }, el("strong", {}, `SA ${sa.id}: ${sa.state.toLowerCase()}`), facts([
      ["SPIs", `${sa.spi_in} in, ${sa.spi_out} out`],
      ["Algorithms", sa.suite],
      ["Carried by", `${sa.udp_encapsulation ? "ESP in UDP" : "ESP"}, ${sa.mode} mode${sa.worker === null ? "" : `, worker ${sa.worker}`}`],
      ["Traffic", `${sa.local_ts.join(", ")} ↔ ${sa.remote_ts.join(", ")}`],
      ["From the peer", `${count(sa.packets_in, "packet", "packets")}, ${octets(sa.bytes_in)}${sa.last_in === null ? "" : `, last ${since(sa.last_in)}`}`],
      ["To the peer", `${count(sa.packets_out, "packet", "packets")}, ${octets(sa.bytes_out)}${sa.last_out === null ? "" : `, last ${since(sa.last_out)}`}`],
      ["Dropped", sa.drops.map(drop => `${drop.cause} ${drop.count}`).join(", ")],
      ["Since", since(sa.installed)],
      ["New keys", within(sa.rekey_at)],
      ["Ends", within(sa.expires_at)],
    ])));
    return el("section", { class: "card" }, el("h3", {}, `${c.name}: `, ...mark(state)), facts([
      ["Explained", `${c.explained.cause} [${c.explained.code}]`],
      ["Packets", c.health && `${c.health.message} [${c.health.code}]`],
      [c.up ? "Up" : "Down", c.since === null ? null : `for ${ago(now() - c.since)}`],
      ["Next attempt", c.up ? null : within(c.next_attempt)],
      ["Failed in a row", c.failures || null],
      ["Selectors", `${c.local_ts.join(", ")} ↔ ${c.remote_ts.join(", ")}`],
      ["Carried in all", `${octets(c.traffic.bytes_in)} from the peer, ${octets(c.traffic.bytes_out)} to it`],
      ["Rekeyed", c.rekeys ? count(c.rekeys, "time", "times") : null],
    ]), ...sas);
  }
  const HAPPENED = { up: ["up", "up"], down: ["down", "down"], failed: ["down", "failed"], rekeyed: ["up", "new keys"], moved: ["up", "moved"] };
  function event(e) {
    const [state, word] = HAPPENED[e.kind] || ["idle", e.kind];
    const what = [e.child ? `child ${e.child}` : "IKE SA", e.code, e.times > 1 ? `${e.times} times` : null].filter(Boolean).join(", ");
    return el("li", {}, el("time", { class: "quiet num", datetime: new Date(e.at * 1000).toISOString(), title: since(e.at) }, clock(e.at)),
      el("span", {}, el("span", { class: `mark ${state}` }, word)), el("p", {}, what, e.detail ? el("span", { class: "quiet" }, ` ${e.detail}`) : null));
  }
  /** The last three minutes, both ways: solid is from the peer, dashed is to it. */
  function spark(past) {
    const samples = past ? past.samples : [];
    if (samples.length < 2) return null;
    const most = Math.max(1, ...samples.flat()), w = 600, h = 44;
    const points = which => samples.map((sample, at) => `${(w - (samples.length - 1 - at) * (w / (SAMPLES - 1))).toFixed(1)},${(h - 3 - sample[which] / most * (h - 8)).toFixed(1)}`).join(" ");
    return svg("svg", { class: "spark", viewBox: `0 0 ${w} ${h}`, preserveAspectRatio: "none", role: "img", "aria-label": `Throughput of the last minutes, at most ${bits(most)}` },
      svg("line", { class: "axis", x1: 0, x2: w, y1: h - 1, y2: h - 1 }), svg("polyline", { class: "in", points: points(0) }), svg("polyline", { class: "out", points: points(1) }));
  }

  // ---- whoever sits in front of it
  $("find").addEventListener("submit", happening => happening.preventDefault());
  $("find").addEventListener("input", () => { shown = PAGE; if (overview) list(); });
  $("more").addEventListener("click", () => {
    const at = $("rows").children.length;
    shown += PAGE;
    list();
    const next = $("rows").children[at];
    if (next) next.firstElementChild.focus();
  });
  document.addEventListener("keydown", key => {
    if (key.ctrlKey || key.metaKey || key.altKey) return;
    const typing = key.target instanceof HTMLInputElement && key.target.type === "search";
    if (key.key === "/" && !typing && opened === null) { key.preventDefault(); $("words").focus(); }
    if (key.key === "Escape" && opened !== null) location.hash = "";
    const item = key.target.closest ? key.target.closest("#rows li") : null;
    if (key.key === "ArrowDown" && (item || typing)) {
      const next = item ? item.nextElementSibling : $("rows").firstElementChild;
      if (next) { key.preventDefault(); next.firstElementChild.focus(); }
    }
    if (key.key === "ArrowUp" && item) {
      key.preventDefault();
      (item.previousElementSibling ? item.previousElementSibling.firstElementChild : $("words")).focus();
    }
  });
  window.addEventListener("hashchange", async () => {
    const from = opened;
    await open();
    // Back where one came from.
    if (from !== null && opened === null && rows.has(from) && rows.get(from).item.isConnected) rows.get(from).link.focus();
  });
  new ResizeObserver(() => { if (overview && !$("overview").hidden) picture(); }).observe($("picture"));
  async function forever() {
    for (;;) {
      if (!document.hidden) await refresh();
      await new Promise(done => setTimeout(done, EVERY));
    }
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  forever();
})();
