//! Entry point for fuzzing: what a client may send to the HTTP service.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Counters, Site, Source, converse};
use crate::snapshot::Snapshot;

/// The octets of one client, who then sends nothing more: the service returns, what it answers is HTTP and bounded by
/// what was asked.
pub fn http(sent: &[u8]) {
    thread_local! {
        static RUNTIME: Option<tokio::runtime::Runtime> =
            tokio::runtime::Builder::new_current_thread().enable_time().build().ok();
    }
    RUNTIME.with(|runtime| {
        let Some(runtime) = runtime else { return };
        let source = Source::Fixed(Arc::new(Snapshot::default()));
        let local = Some(([127, 0, 0, 1], 9511).into());
        let site = Site { source, local, counters: Counters::default() };
        let got = runtime.block_on(async {
            let (client, server) = tokio::io::duplex(1 << 16);
            let (mut read, mut write) = tokio::io::split(client);
            let mut got = Vec::new();
            let client = async {
                // It may be let go before it has said all.
                let _ = write.write_all(sent).await;
                let _ = write.shutdown().await;
                let _ = read.read_to_end(&mut got).await;
            };
            tokio::join!(converse(&site, server), client);
            got
        });
        assert!(got.is_empty() || got.starts_with(b"HTTP/1."), "{got:?}");
        // The shortest request has 16 octets; the longest answer is the page's script.
        assert!(got.len() <= (sent.len() / 16 + 1) * (64 << 10), "{} for {}", got.len(), sent.len());
    });
}
