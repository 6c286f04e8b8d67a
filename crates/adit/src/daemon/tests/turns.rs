//! Whoever waits has a turn, however much of another waits.

use std::cell::Cell;
use std::collections::VecDeque;

use super::*;

/// By a clock on which everything takes a quarter of a turn: of datagrams and of commands four have theirs, of the list what
/// its reader takes at once, and so it goes on until nobody waits.
#[test]
fn nobody_waits_for_all_of_another() {
    const DATAGRAMS: usize = 100;
    const COMMANDS: usize = 20;
    const ITEMS: usize = 50;
    let begin = Instant::now();
    let mut a = Side::new(begin, "1", "2", SECRET, "");
    for _ in 0..DATAGRAMS {
        let (local, remote) = ("192.0.2.1:500".parse().unwrap(), "192.0.2.2:500".parse().unwrap());
        a.daemon.inbox.deliver(NetEvent::Ike { local, remote, datagram: vec![0; 28] }, &a.queue);
    }
    let (mut requests, mut answers) = (VecDeque::new(), Vec::new());
    for _ in 0..COMMANDS {
        let (reply, captured) = Captured::reply();
        requests.push_back(Request { command: "version".into(), arguments: Message::new(), reply });
        answers.push(captured);
    }
    let (reply, mut reader) = Captured::reply();
    // One of them is as much as is told ahead of a reader.
    a.daemon.list(begin, reply, (0..ITEMS).collect(), |_, reply, item: &usize, _| {
        let mut message = Message::new();
        message.put_list("item", (0..10).map(|_| format!("{item:0>30000}")));
        reply.event("list-sa", message);
    });
    assert_eq!(reader.packets().len(), 1, "the first at once");

    let time = Cell::new(begin);
    let clock = || {
        let now = time.get();
        time.set(now + Duration::from_micros(250));
        now
    };
    let mut told = 1;
    for turns in 1..=ITEMS {
        reader.has_read();
        let more = a.daemon.take_turns(&mut a.inbox, || requests.pop_front(), clock);
        told += reader.packets().len();
        let answered: usize = answers.iter_mut().map(|answer| answer.packets().len()).sum();
        let datagrams = DATAGRAMS.saturating_sub(4 * turns);
        assert_eq!(a.inbox.len(), datagrams, "turn {turns}");
        assert_eq!(answered, if 4 * turns <= COMMANDS { 4 } else { 0 }, "turn {turns}");
        assert_eq!(told, 1 + turns, "turn {turns}");
        assert_eq!(more, datagrams > 0, "turn {turns}: who has not read does not wait");
        assert_eq!(
            a.daemon.bit < crate::daemon::turns::BIT,
            datagrams > 0,
            "what is told at length is told slowly then"
        );
    }
    assert!(a.daemon.listings.is_empty());
}
