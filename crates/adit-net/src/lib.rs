//! The operating system, as the gateway needs it: a TUN device, sockets, routes, packet filter rules and the
//! threads that move packets.
//!
//! This crate owns everything that touches the kernel, and the only `unsafe` code of the workspace (all of it in
//! one module). It never negotiates anything: what is to be protected comes as [`PolicySpec`]s, keys come as
//! [`ChildSaInstall`]s, and what it learns leaves as [`NetEvent`]s.
//!
//! ```text
//!            set_policies / install / .. / remove                  NetEvent
//!                    |                                                 ^
//! fence, routes <- Userspace -> policies: immutable snapshot           |
//!       ^            |              |                                  |
//!       |            +- commands -> worker: TUN queue, sockets, its SAs + demultiplexer of 500, 4500, ESP
//!       +-------------------------- monitor: what others change -------+
//! ```
//!
//! **Fail closed.** From [`Backend::set_policies`] on, traffic of a policy travels through the tunnel or not at all,
//! in both directions, SA or no SA, and also while the process is dead: see [`fence`] and the module `routes`. Only
//! [`Backend::shutdown`] lifts that, neither an error nor dropping the data plane.
#![deny(unsafe_code, unsafe_op_in_unsafe_fn)]

mod backend;
#[doc(hidden)]
pub mod bench;
pub mod capture;
mod counters;
mod counting;
mod devices;
mod engine;
pub mod fence;
mod handoff;
mod interfaces;
pub mod netlink;
pub mod netns;
mod nft;
mod path;
mod protection;
mod routes;
mod sockets;
mod steering;
#[expect(unsafe_code, reason = "the system calls without a safe wrapper, and nothing else")]
mod sys;
mod tap;
mod tun;
mod userspace;
mod worker;
mod xdp;

use std::io;

pub use backend::{
    Backend, ChildCounters, ChildId, ChildSaInstall, InterfaceSpec, Iptfs, Limits, Mark, NetConfig, NetEvent,
    PolicyId, PolicySpec, Treatment, UdpEncap,
};
pub use counters::{DropCause, Stats};
pub use path::DEFAULT_MARK;
pub use sockets::IkeSender;
pub use tap::{Direction, Layer, TapFilter, TapPacket, TapReader};
pub use userspace::Userspace;

/// Why the operating system or the data plane did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call needs rights that this process does not have.
    #[error(
        "cannot {action}: {source}; run it as root or with CAP_NET_ADMIN, CAP_NET_RAW and CAP_NET_BIND_SERVICE"
    )]
    Privilege {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The request makes no sense here.
    #[error("{0}")]
    Configuration(String),
    /// Something else on this machine holds what is needed.
    #[error("{0}")]
    InUse(String),
    /// The SA cannot be made from its parameters.
    #[error(transparent)]
    Sa(#[from] adit_esp::Error),
    /// The data plane has stopped.
    #[error("the data plane has stopped")]
    Stopped,
}

impl Error {
    pub(crate) fn system(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Privilege { action, source },
            _ => Self::System { action, source },
        }
    }

    /// The kernel's answer, if there was one.
    pub(crate) fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } | Self::Privilege { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
