//! Where the time goes while one TCP stream passes both gateways: samples of all cores, by whose they are and by what was
//! being done.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use adit_lab::lab::{Family, Lab, Node, Side, Topology, with_lab};
use adit_lab::process::{Process, eventually, run as run_command, tell};
use anyhow::{Result, ensure};

use crate::contenders::Contender;
use crate::report::replace;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// During whose turn.
    #[arg(long, value_enum, default_value = "adit")]
    contender: Contender,
    /// For how long.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Put the tables into this document too.
    #[arg(long)]
    write: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut text = String::new();
    with_lab("profile", Topology { direct: true, ..Topology::default() }, |lab| {
        let _daemons = options.contender.start(lab)?;
        text = tables(&Profile::read(&record(lab, options.seconds)?));
        Ok(())
    })?;
    tell(&text);
    options.write.as_ref().map_or(Ok(()), |document| replace(document, "profile", &text))
}

/// What `perf script` prints of the samples.
fn record(lab: &Lab, seconds: u32) -> Result<String> {
    let server = lab.spawn(Node::HostB, "iperf3-server", "iperf3", &["-s", "-1", "--forceflush"])?;
    eventually("iperf3 to listen", Duration::from_secs(5), || {
        Ok(server.own_output().contains("Server listening").then_some(()))
    })?;
    let mut command = lab.command(Node::HostA, "iperf3");
    command.args(["-c", Side::B.host(Family::V4), "-t", &(seconds + 3).to_string()]);
    let _client = Process::spawn("iperf3-client", &mut command, lab.dir())?;
    std::thread::sleep(Duration::from_secs(1));
    let file = lab.dir().join("perf.data");
    run_command(
        Command::new("perf")
            .args(["record", "-q", "-F", "999", "-e", "cpu-clock", "-a", "-g", "-o"])
            .arg(&file)
            .args(["--", "sleep", &seconds.to_string()]),
    )?;
    let mut script = Command::new("perf");
    script.args(["script", "--no-inline", "-F", "comm,ip,sym,dso", "-i"]).arg(&file);
    let text = run_command(&mut script)?;
    ensure!(!text.is_empty(), "perf has no samples");
    Ok(text)
}

/// Samples, counted.
#[derive(Debug, Default)]
struct Profile {
    total: usize,
    /// By what was being done.
    whats: BTreeMap<String, usize>,
    /// By whose process it was.
    whose: BTreeMap<&'static str, usize>,
    /// By the function at the end of the stack.
    functions: BTreeMap<String, usize>,
}

impl Profile {
    /// Samples are paragraphs: a process's name, and its stack from the innermost function on.
    fn read(script: &str) -> Self {
        let mut profile = Self::default();
        for sample in script.split("\n\n") {
            let mut lines = sample.trim_start_matches('\n').lines();
            let Some(process) = lines.next().map(str::trim) else { continue };
            let stack: Vec<Frame<'_>> = lines.filter_map(Frame::read).collect();
            let whose = match process {
                "swapper" => IDLE,
                "iperf3" => "hosts (iperf3)",
                // Its threads have names of their own.
                name if name.starts_with("adit") => "gateways",
                _ => OTHERS,
            };
            profile.total += 1;
            *profile.whose.entry(whose).or_default() += 1;
            let what = if [IDLE, OTHERS].contains(&whose) { whose.to_owned() } else { what(&stack) };
            *profile.whats.entry(what).or_default() += 1;
            if let Some(frame) = stack.first() {
                *profile.functions.entry(frame.function.to_owned()).or_default() += 1;
            }
        }
        profile
    }

    /// Shares of all samples, the largest first.
    fn table<T: AsRef<str>>(&self, of: &str, counts: &BTreeMap<T, usize>, most: usize) -> String {
        let mut rows: Vec<_> = counts.iter().map(|(name, count)| (name.as_ref(), *count)).collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut text = format!("| {of} | share |\n|---|---|\n");
        for (name, count) in rows.into_iter().take(most) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "| {name} | {:.1} % |", 100.0 * count as f64 / self.total as f64);
        }
        text
    }
}

/// One function of a stack: `address name (file)`.
struct Frame<'a> {
    function: &'a str,
    kernel: bool,
    library: bool,
}

impl<'a> Frame<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (_, rest) = line.trim_start().split_once(' ')?;
        let (function, file) = rest.rsplit_once(" (")?;
        Some(Self {
            function,
            kernel: file.starts_with("[kernel") || file.starts_with("[guest.kernel"),
            library: file.contains("/lib"),
        })
    }
}

const IDLE: &str = "idle";
const OTHERS: &str = "other processes of the machine";

/// What was being done. Of a program, the function says it; in the kernel, the innermost one that belongs to something.
fn what(stack: &[Frame<'_>]) -> String {
    let Some(inner) = stack.first() else { return "no stack".to_owned() };
    if inner.kernel {
        let belongs = |function: &str| {
            let fits = |names: &str| names.split_whitespace().any(|name| function.starts_with(name));
            KERNEL.iter().find(|(_, names)| fits(names)).map(|(what, _)| *what)
        };
        let kernel = stack.iter().take_while(|frame| frame.kernel);
        let what =
            kernel.map(|frame| frame.function).find_map(belongs).unwrap_or("system calls, files, polling");
        return format!("kernel: {what}");
    }
    let function = inner.function.trim_start_matches(['<', '&']);
    if function.contains("aws_lc") || function.contains("aes_gcm") || function.contains("chacha20_poly1305") {
        "cipher (aws-lc)".to_owned()
    } else if function.starts_with("adit") {
        function.split("::").take(2).collect::<Vec<_>>().join("::")
    } else if inner.library {
        "C library (copies, calls)".to_owned()
    } else {
        "programs: the rest".to_owned()
    }
}

/// What functions of the kernel belong to, by how their names begin. The first that fits counts.
const KERNEL: [(&str, &str); 9] = [
    (
        "copies between it and programs",
        "_copy_to_iter _copy_from_iter copy_page_ simple_copy_to_iter __check_object_size rep_movs csum_and_copy \
         skb_copy_ __skb_datagram_iter copy_to_user copy_from_user _copy_to_user _copy_from_user check_heap_object \
         __import_iovec import_iovec check_stack_object",
    ),
    (
        "waking, switching, yielding, interrupts between cores",
        "schedule __schedule finish_task_switch try_to_wake_up __wake_up ttwu sock_def_ ep_poll_callback do_sched_yield \
         yield_task __x64_sys_sched_yield pick_ enqueue_task dequeue_ update_curr sysvec_ asm_sysvec smp_call __smp_call \
         flush_smp_call native_send_call hrtimer autoremove_wake receiver_wake pollwake default_wake wake_up tick_ \
         update_process_times",
    ),
    (
        "packet buffers, got and returned",
        "__alloc_skb alloc_skb kmem_cache kmalloc __kmalloc kfree skb_release __kfree_skb consume_skb skb_free skb_page_frag \
         alloc_pages __alloc_ get_page_from free_unref __free_pages skb_defer_free put_page free_frozen __slab ___slab \
         sock_alloc_send kmem page_pool folio __folio build_skb __build_skb rmqueue skb_clone __skb_clone pskb_ \
         skb_split sock_wfree skb_set_owner skb_attempt alloc_frozen zap_ unmap_",
    ),
    ("packet filter", "nft_ nf_"),
    ("TUN", "tun_ __tun"),
    (
        "UDP, its segmentation and coalescing",
        "udp __udp skb_segment skb_udp inet_gso skb_gso skb_mac_gso skb_gro",
    ),
    ("TCP", "tcp __tcp bictcp cubictcp sk_"),
    ("IP and routing", "ip __ip fib __fib inet rt_ dst_ neigh arp_ __mkroute raw_ icmp_"),
    (
        "links and their queues",
        "veth_ dev_ __dev netif_ __netif process_backlog enqueue_to_backlog net_rx_action __napi napi_ handle_softirqs \
         do_softirq __local_bh sch_ qdisc __qdisc pfifo fq_ noqueue eth_ validate_xmit xdp_ __xdp xsk_ __xsk",
    ),
];

fn tables(profile: &Profile) -> String {
    [
        profile.table("whose process", &profile.whose, 9),
        profile.table("what", &profile.whats, 20),
        profile.table("function", &profile.functions, 16),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_sorted() {
        let script = "adit-worker \n\tffffffff81e32f85 _raw_spin_unlock ([kernel.kallsyms])\n\tffffffff81 \
                      sock_def_readable ([kernel.kallsyms])\n\tffffffff82 tun_get_user ([kernel.kallsyms])\n\n\
                      swapper \n\tffffffff80 pv_native_safe_halt ([kernel.kallsyms])\n\n\
                      adit-worker \n\t4 <adit_net::engine::Engine as X>::outbound (/opt/adit)\n\t1 [unknown] ([unknown])\n\n\
                      iperf3 \n\tffffffff83 do_syscall_64 ([kernel.kallsyms])\n\n";
        let profile = Profile::read(script);
        assert_eq!(profile.total, 4);
        let whats: Vec<_> = profile.whats.keys().map(String::as_str).collect();
        assert_eq!(
            whats,
            [
                "adit_net::engine",
                "idle",
                "kernel: system calls, files, polling",
                "kernel: waking, switching, yielding, interrupts between cores"
            ]
        );
        assert_eq!(profile.whose.get("gateways"), Some(&2));
    }
}
