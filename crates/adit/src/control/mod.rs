//! The control interface: how `adit` commands, `swanctl` and other programs talk to the daemon.
//!
//! It speaks vici, strongSwan's control protocol, on a Unix socket or a loopback TCP port.

pub mod client;
pub mod server;
pub mod vici;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the control interface listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlUri {
    /// `unix:///path`
    Unix(PathBuf),
    /// `tcp://127.0.0.1:port`; never anything but loopback, since nothing authenticates there.
    Tcp(SocketAddr),
}

impl Default for ControlUri {
    fn default() -> Self {
        Self::Unix(PathBuf::from("/run/adit/adit.vici"))
    }
}

impl FromStr for ControlUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason| UriError { uri: text.to_owned(), reason };
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(error("the path must be absolute, as in unix:///run/adit/adit.vici"));
            }
            // sockaddr_un holds 108 octets, the terminator included.
            if path.len() > 107 {
                return Err(error("the path is longer than the 107 octets a Unix socket can have"));
            }
            if path.contains('\0') || path.ends_with('/') {
                return Err(error("the path does not name a file"));
            }
            Ok(Self::Unix(PathBuf::from(path)))
        } else if let Some(address) = text.strip_prefix("tcp://") {
            let address: SocketAddr = address
                .parse()
                .map_err(|_| error("expected an address and a port, as in tcp://127.0.0.1:4502"))?;
            if !address.ip().is_loopback() {
                return Err(error("only a loopback address is allowed: nobody is authenticated there"));
            }
            Ok(Self::Tcp(address))
        } else {
            Err(error("expected unix:///path or tcp://127.0.0.1:port"))
        }
    }
}

impl fmt::Display for ControlUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Why a control URI is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("control address `{uri}`: {reason}")]
pub struct UriError {
    uri: String,
    reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        for good in ["unix:///run/adit/adit.vici", "tcp://127.0.0.1:4502", "tcp://[::1]:4502"] {
            assert_eq!(good.parse::<ControlUri>().unwrap().to_string(), good);
        }
        assert_eq!(ControlUri::default(), "unix:///run/adit/adit.vici".parse().unwrap());
        let long = format!("unix:///{}", "x".repeat(107));
        for bad in [
            "",
            "/run/x",
            "unix://run/x",
            "unix:///",
            "unix:///run/",
            "tcp://127.0.0.1",
            "tcp://10.0.0.1:1",
            &long,
        ] {
            assert!(bad.parse::<ControlUri>().is_err(), "{bad}");
        }
    }
}
