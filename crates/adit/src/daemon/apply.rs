//! `diff`, `apply` and `confirm`: what another configuration would touch, exactly that, and the way back.
//!
//! It owns the configuration to go back to until somebody confirms the new one. How a configuration is put in force is the
//! business of `configuration`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::Daemon;
use super::configuration::MOST_LISTED;
use super::pushed::Before;
use super::reload::{Changes, Loaded};
use crate::config::{self, Files, Parts};
use crate::control::report;
use crate::control::server::Reply;
use crate::control::vici::{Message, Value};

/// When the way back is tried again that could not be gone.
const AGAIN: Duration = Duration::from_secs(10);

/// What is to be done with a configuration that is being read beside the event loop.
pub(super) struct Job {
    task: Task,
    reply: Reply,
}

enum Task {
    Diff,
    Apply { confirm: Option<Duration> },
}

/// What was read, and for whom; without a job, for those who wait for a reload.
pub(super) struct Load {
    pub(super) loaded: Loaded,
    pub(super) job: Option<Job>,
}

/// A configuration is in force that somebody has to confirm.
pub(super) struct Unconfirmed {
    /// What the file said before.
    previous: Parts,
    /// What was the clients' then.
    taken: Vec<Before>,
    pub(super) deadline: Instant,
}

/// `diff`: tells what a configuration would touch.
pub(super) fn diff(daemon: &mut Daemon, _: Instant, arguments: &Message, reply: Reply) {
    daemon.begin(arguments, Job { task: Task::Diff, reply });
}

/// `apply`: puts a configuration in force, for `confirm` seconds unless somebody confirms it.
pub(super) fn apply(daemon: &mut Daemon, now: Instant, arguments: &Message, reply: Reply) {
    let confirm = match arguments.text("confirm").map(|text| text.parse::<u32>()) {
        None => None,
        Some(Ok(seconds @ 1..=86_400)) => Some(Duration::from_secs(seconds.into())),
        Some(_) => return reply.failure("`confirm` is no number of seconds from 1 to 86400"),
    };
    if let Some(why) = daemon.awaits_confirmation(now) {
        return reply.failure(why);
    }
    daemon.begin(arguments, Job { task: Task::Apply { confirm }, reply });
}

/// `confirm`: what was applied stays.
pub(super) fn confirm(daemon: &mut Daemon, _: Instant, _: &Message, reply: Reply) {
    match daemon.unconfirmed.take() {
        Some(_) => {
            tracing::info!("the configuration that was applied is confirmed");
            reply.success();
        }
        None => reply.failure("nothing waits for a confirmation"),
    }
}

impl Daemon {
    /// Reads a configuration beside the event loop: what the client has sent, else the daemon's own file.
    fn begin(&mut self, arguments: &Message, job: Job) {
        match Sent::read(arguments) {
            Ok(sent) => self.loader.read_for(sent, job),
            Err(why) => job.reply.failure(why),
        }
    }

    /// Why nothing else may be put in force now.
    fn awaits_confirmation(&self, now: Instant) -> Option<String> {
        let left = self.unconfirmed.as_ref()?.deadline.saturating_duration_since(now);
        Some(format!(
            "another one is not confirmed yet: `adit confirm`, or wait {} s for the one before",
            left.as_secs() + 1
        ))
    }

    /// A configuration was read.
    pub(super) fn load(&mut self, now: Instant, Load { loaded, job }: Load) {
        let Some(Job { task, reply }) = job else {
            let answer = match self.awaits_confirmation(now) {
                Some(why) => {
                    tracing::error!("the configuration is not reloaded: {why}");
                    failure(why)
                }
                None => self.put_in_place(now, loaded, None),
            };
            return self.loader.done(&answer);
        };
        match task {
            Task::Diff => reply.respond(self.difference(loaded)),
            Task::Apply { confirm } => {
                if let Some(why) = self.awaits_confirmation(now) {
                    return reply.failure(why);
                }
                reply.respond(self.put_in_place(now, loaded, confirm));
            }
        }
    }

    /// Puts a configuration in force, until somebody confirms it where there is a time for that.
    pub(super) fn put_in_place(
        &mut self,
        now: Instant,
        loaded: Loaded,
        confirm: Option<Duration>,
    ) -> Message {
        let previous = confirm.map(|_| self.file.clone());
        self.supervisor.reloading();
        let mut answer = self.loaded(now, loaded);
        self.supervisor.ready();
        let taken = self.pushed.taken();
        if let (true, Some(wait), Some(previous)) = (answer.flag("success"), confirm, previous) {
            tracing::warn!(
                "the configuration before is put in force again in {wait:?} unless this one is confirmed"
            );
            self.unconfirmed = Some(Unconfirmed { previous, taken, deadline: now + wait });
            answer.put_display("confirm", wait.as_secs());
        }
        answer
    }

    /// Nobody has confirmed in time: the configuration before, whatever has become of its file, and beside it what was the
    /// clients' then.
    pub(super) fn roll_back(&mut self, now: Instant) {
        let due = |unconfirmed: &mut Unconfirmed| unconfirmed.deadline <= now;
        let Some(Unconfirmed { previous, taken, .. }) = self.unconfirmed.take_if(due) else { return };
        self.catch_up(now);
        self.pushed.bring_back(taken);
        match self.configure(now, previous.clone()) {
            Ok(changes) => {
                tracing::warn!("not confirmed in time: the configuration before is in force again: {changes}")
            }
            Err(error) => {
                tracing::error!(
                    "not confirmed in time, and the configuration before cannot be put in force yet: {error}; tried again \
                     in {AGAIN:?}"
                );
                self.pushed.give_to_the_file(&self.pushed.names_in(&self.file));
                let taken = self.pushed.taken();
                self.unconfirmed = Some(Unconfirmed { previous, taken, deadline: now + AGAIN });
            }
        }
    }

    /// What a configuration would touch.
    fn difference(&self, loaded: Loaded) -> Message {
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(diagnostics) => {
                let mut answer = failure("the configuration has errors");
                answer.put_list("errors", diagnostics.to_string().lines());
                return answer;
            }
        };
        let mut warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        if self.section.as_ref().is_some_and(|section| *section != loaded.gateway) {
            warnings
                .push("the section `gateway` is different: that takes effect at the next start".to_owned());
        }
        let file: Parts = loaded.into();
        let taken = self.pushed.names_in(&file);
        let all = self.pushed.beside(file, &taken);
        let mut changes = self.changes(&all);
        let lost: Vec<_> = self.lost(&all.ike).into_iter().map(|sa| sa.handle).collect();
        let mut ends = Vec::new();
        for sa in self.gateway.ike_sas() {
            let name = report::ike_sa_name(&sa);
            let whole = changes.connections.contains(&sa.connection) || lost.contains(&sa.handle);
            if whole {
                ends.push(format!("{name}[{}]", sa.handle.0));
            }
            if lost.contains(&sa.handle) && !changes.changed.contains(&sa.connection) {
                changes.changed.push(sa.connection.clone());
            }
            for child in &sa.children {
                let is_it =
                    |gone: &super::ChildName| gone.connection == sa.connection && gone.child == child.name;
                if whole || changes.children.iter().any(is_it) {
                    ends.push(format!("{name}/{}{{{}}}", child.name, child.handle.0));
                }
            }
        }
        let mut answer = Message::new();
        answer.put("success", "yes").put_display("summary", &changes);
        let Changes { added, changed, removed, .. } = changes;
        for (key, names) in [("added", added), ("changed", changed), ("removed", removed), ("ends", ends)] {
            answer.put_list(key, names.into_iter().take(MOST_LISTED));
        }
        answer.put_list("warnings", warnings);
        answer
    }
}

fn failure(why: impl Into<String>) -> Message {
    let mut answer = Message::new();
    answer.put("success", "no").put("errmsg", why.into());
    answer
}

/// Files that a client has sent along: its way to a file is not the daemon's, and no client reads files through the daemon.
pub(super) struct Sent {
    path: PathBuf,
    files: Vec<(PathBuf, Zeroizing<Vec<u8>>)>,
}

impl Sent {
    /// `None`: the client means the daemon's own.
    fn read(arguments: &Message) -> Result<Option<Self>, &'static str> {
        let Some(path) = arguments.text("file") else { return Ok(None) };
        let files = arguments.section("files").ok_or("missing: `files`")?;
        let files = files.entries().map(|(name, value)| match value {
            Value::List(chunks) => Ok((PathBuf::from(name), Zeroizing::new(chunks.concat()))),
            Value::Bytes(_) | Value::Section(_) => Err("`files` holds a list of octets for each file"),
        });
        Ok(Some(Self { path: PathBuf::from(&*path), files: files.collect::<Result<_, _>>()? }))
    }

    pub(super) fn load(&self) -> Loaded {
        config::load_from(&self.path, self, |_| false)
    }
}

impl Files for Sent {
    fn expand(&self, pattern: &Path) -> Result<Vec<PathBuf>, String> {
        let Some(text) = config::wildcards(pattern)? else {
            return Ok(vec![pattern.to_owned()]);
        };
        let pattern = glob::Pattern::new(text).map_err(|error| format!("bad pattern: {error}"))?;
        let fits = |(path, _): &&(PathBuf, _)| pattern.matches_path_with(path, config::WILDCARDS);
        let mut found: Vec<PathBuf> = self.files.iter().filter(fits).map(|(path, _)| path.clone()).collect();
        found.sort();
        Ok(found)
    }

    fn read(&self, path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, String> {
        let file = self.files.iter().find(|(name, _)| name == path);
        let (_, content) = file.ok_or("the client has not sent it")?;
        if content.len() > limit {
            Err(format!("it holds more than {limit} bytes"))
        } else {
            Ok(content.clone())
        }
    }
}
