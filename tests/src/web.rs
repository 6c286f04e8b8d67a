//! The HTTP service of a gateway as others see it: a plain client, and headless Chromium.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{Lab, Node, need};
use crate::process::{eventually, run};
use crate::scapy::script;

/// Where the service of a gateway listens, inside its namespace.
pub const HTTP: &str = "127.0.0.1:9511";

/// The status and the body of what is answered to `path` at `address` inside a namespace.
pub fn get(lab: &Lab, node: Node, address: &str, path: &str) -> Result<(u16, String)> {
    lab.inside(node, || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8(answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.context("no status")?, body.to_owned()))
    })?
}

/// The same, of a JSON document that is there.
pub fn json(lab: &Lab, node: Node, address: &str, path: &str) -> Result<Value> {
    let (status, body) = get(lab, node, address, path)?;
    ensure!(status == 200, "{path}: {status} {body}");
    serde_json::from_str(&body).with_context(|| format!("{path}: {body}"))
}

/// The value of one line of `/metrics`.
pub fn metric(text: &str, series: &str) -> Result<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.with_context(|| format!("no {series} in:\n{text}"))?.parse().context("a number")
}

/// Waits until `condition` holds for what `path` answers.
pub fn until(
    lab: &Lab,
    node: Node,
    path: &str,
    what: &str,
    condition: impl Fn(&Value) -> bool,
) -> Result<Value> {
    eventually(what, Duration::from_secs(40), || {
        let value = get(lab, node, HTTP, path).ok().and_then(|(_, body)| serde_json::from_str(&body).ok());
        Ok(value.filter(&condition))
    })
}

/// What headless Chromium finds on the status page of a gateway; its screenshots begin with `name`.
pub fn look(lab: &Lab, node: Node, name: &str, tunnel: &str) -> Result<Value> {
    need("chromium", "chromium")?;
    let shots = shots()?;
    std::fs::create_dir_all(&shots)?;
    let mut command = script(lab, node, "browser.py")?;
    command.arg(format!("http://{HTTP}/")).arg(shots.join(name)).arg(tunnel);
    // Whatever it wants to keep is gone with the test.
    command.env("HOME", lab.dir()).env("XDG_CONFIG_HOME", lab.dir()).env("XDG_CACHE_HOME", lab.dir());
    let found: Value = serde_json::from_str(&run(&mut command)?)?;
    let list = |key: &str| found.get(key).and_then(Value::as_array).cloned().context("a list");
    let errors = list("errors")?;
    ensure!(errors.is_empty(), "the console says: {errors:?}");
    for request in list("requests")? {
        let url = request.as_str().context("a URL")?;
        ensure!(url.starts_with(&format!("http://{HTTP}/")), "the page asks somebody else: {url}");
    }
    for wider in ["wider", "wider-tunnel"] {
        ensure!(found.get(wider) == Some(&Value::from(0)), "at 360 px something sticks out: {found}");
    }
    Ok(found)
}

/// Where the screenshots are: `page` beside the test programs of this workspace.
fn shots() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    Ok(test.ancestors().nth(3).context("where is the target directory?")?.join("page"))
}
