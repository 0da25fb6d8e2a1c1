//! Intake: finds files in `unprocessed/` that are complete, claims them and hands them to the
//! ledger.
//!
//! One thread in process 0. Events of the file system are hints that a file was closed or renamed
//! into place; the truth is the folder, which is looked at regularly. A file is taken only when such
//! a hint came or when it has not changed for a while. Nothing is ever opened before it is known to
//! be a plain file, so a pipe or a device cannot hold the intake up.

mod deleted;
pub(crate) mod gate;
mod inbox;
mod manifest;
mod patterns;
mod refused;
mod waiting;
mod watch;

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use tidemill_store::{
    ClaimError, Claimed, Dedupe, Filter, Folders, JournalError, JournalReader, NewFile, SetOf,
    Terms, queue,
};

use crate::board::{Board, from_us, to_us};
use crate::code::FileCode;
use crate::control::Control;
use crate::ledger::{Event, Removal};
use crate::space::Space;
use deleted::Deleted;
use gate::{Ready, with_its_set};
use inbox::{Found, Inbox, Scan};
pub use patterns::Patterns;
use watch::{Hint, Watch};

/// Files claimed and synced together, at most.
const GROUP_FILES: usize = 256;

/// Bytes claimed and synced together, at most: a big file does not wait for its neighbours.
const GROUP_BYTES: u64 = 16 << 20;

/// Files of one pipeline that may be accepted and not finished.
pub const PENDING_MAX: usize = 2048;

/// How many of the newest files are looked at to find markers that an earlier life left.
const EARLIER_FILES: usize = 2048;

/// How long the intake sleeps while too many files are pending.
const PENDING_WAIT: Duration = Duration::from_millis(5);

/// How many times as long as a scan took the next one waits, at least: scanning takes no more than
/// one part in so many of a core.
const SCAN_REST: u32 = 50;

/// How the intake decides that a file is complete.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long a file must be unchanged when no close or rename was seen.
    pub quiet: Duration,
    /// How often the folders are looked at, whatever the system tells.
    pub scan: Duration,
}

/// The intake's end of one pipeline.
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its folders.
    pub folders: Folders,
    /// Which source takes what.
    pub patterns: Patterns,
    /// The sources whose inputs are removed when somebody deletes them from `processed/`.
    pub retracts: Vec<String>,
}

/// The numbers of submissions, shared by all who claim.
#[derive(Clone, Debug)]
pub struct Numbers {
    next: Arc<AtomicU64>,
}

impl Numbers {
    /// Returns numbers from `next` on.
    pub fn from(next: u64) -> Self {
        Self { next: Arc::new(AtomicU64::new(next)) }
    }

    /// Returns a number that was never given before.
    pub fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// Which pipeline takes no files for a moment, because another text is to take over. Clones are the
/// same.
#[derive(Clone, Debug)]
pub struct Held {
    pipeline: Arc<AtomicUsize>,
}

impl Default for Held {
    fn default() -> Self {
        Self { pipeline: Arc::new(AtomicUsize::new(usize::MAX)) }
    }
}

impl Held {
    /// Returns whether a pipeline is held.
    pub fn is_held(&self, pipeline: usize) -> bool {
        self.pipeline.load(Ordering::Acquire) == pipeline
    }

    /// Holds one pipeline, or none.
    pub fn hold(&self, pipeline: Option<usize>) {
        self.pipeline.store(pipeline.unwrap_or(usize::MAX), Ordering::Release);
    }
}

/// The intake of all pipelines.
pub struct Intake {
    inboxes: Vec<Inbox>,
    deleted: Vec<Deleted>,
    journal: JournalReader,
    numbers: Numbers,
    board: Arc<Board>,
    ledger: Sender<Event>,
    patience: Patience,
    stop: Arc<AtomicBool>,
    space: Space,
    held: Held,
    control: Control,
}

impl Intake {
    /// Returns an intake. `stop` ends it from outside.
    #[expect(clippy::too_many_arguments, reason = "one call, from start")]
    pub fn new(
        lines: Vec<Line>,
        numbers: Numbers,
        board: Arc<Board>,
        ledger: Sender<Event>,
        patience: Patience,
        stop: Arc<AtomicBool>,
        space: Space,
        journal: JournalReader,
        held: Held,
        control: Control,
    ) -> Self {
        let deleted = lines
            .iter()
            .enumerate()
            .filter(|(_, line)| !line.retracts.is_empty())
            .map(|(at, line)| Deleted::new(at, &line.name, &line.folders, &line.retracts))
            .collect();
        let inbox = |line: Line| Inbox::new(line.name, line.folders, line.patterns);
        let inboxes = lines.into_iter().map(inbox).collect();
        Self {
            deleted,
            journal,
            inboxes,
            numbers,
            board,
            ledger,
            patience,
            stop,
            space,
            held,
            control,
        }
    }

    /// Takes what is there and waits until nothing is left that may become complete.
    pub fn run_once(mut self) -> Result<(), IntakeError> {
        self.look_for_deleted()?;
        self.scan(Heard::Lost, None)?;
        self.clear_earlier()?;
        while !self.stopped() {
            let growing = self.scan(Heard::Lost, None)?;
            let claimed = self.claim_complete()?;
            let behind = self.is_behind();
            while self.is_behind() && !self.stopped() {
                std::thread::sleep(PENDING_WAIT);
                self.claim_complete()?;
            }
            if claimed == 0 && growing == 0 && !behind {
                for inbox in &self.inboxes {
                    let waiting = inbox.gate.conditions();
                    waiting.iter().for_each(|one| tracing::warn!("{}; {}", one.text, one.hint));
                }
                return Ok(());
            }
            if claimed == 0 && !behind {
                std::thread::sleep(self.patience.quiet.min(Duration::from_millis(20)));
            }
        }
        Ok(())
    }

    /// Takes files as they arrive, until it is stopped.
    pub fn run(mut self) -> Result<(), IntakeError> {
        let (hints, heard) = channel();
        let folders: Vec<_> =
            self.inboxes.iter().map(|inbox| &*inbox.folders.unprocessed).collect();
        let mut watch = Watch::start(&folders, hints);
        let mut next_scan = Instant::now();
        let mut heard_last = Heard::Lost;
        let mut cleared = false;
        while !self.stopped() {
            if Instant::now() >= next_scan {
                let began = Instant::now();
                let growing = self.scan(heard_last, Some(&mut watch))?;
                if !std::mem::replace(&mut cleared, true) {
                    self.clear_earlier()?;
                }
                let rest = self.patience.scan.max(began.elapsed() * SCAN_REST);
                // A growing file is looked at as often as it takes to see that it grows no more.
                let wait = if growing > 0 { rest.min(self.patience.quiet / 4) } else { rest };
                self.look_for_deleted()?;
                (next_scan, heard_last) = (Instant::now() + wait, Heard::Hints);
            }
            if self.listen(&heard, next_scan) == Heard::Lost {
                (next_scan, heard_last) = (Instant::now(), Heard::Lost);
            }
            self.claim_complete()?;
        }
        Ok(())
    }

    /// Removes the files whose inputs somebody deleted from `processed/`.
    fn look_for_deleted(&mut self) -> Result<(), IntakeError> {
        let _inside = self.control.enter();
        for one in &mut self.deleted {
            // What is deleted meanwhile is found when the pipeline is resumed.
            if self.control.refusal_of_all(one.pipeline()).is_some() {
                continue;
            }
            for of in one.scan(&self.journal)? {
                // Nobody waits for the answer; a ledger that has ended leaves it to the next life.
                let (reply, _) = channel();
                let id = self.numbers.take();
                let _ = self.ledger.send(Event::Remove(Removal { of, id, reply }));
            }
        }
        Ok(())
    }

    /// Forgets markers and what manifests list that an earlier life has taken, and that was not there
    /// any more to remove them.
    fn clear_earlier(&mut self) -> Result<(), IntakeError> {
        for inbox in self.inboxes.iter_mut().filter(|inbox| !inbox.gate.is_open()) {
            let ask = |name: Option<String>, limit: usize| {
                let pipeline = Some(inbox.pipeline.clone());
                self.journal.submissions(&Filter { pipeline, name, limit, ..Filter::default() })
            };
            let mut done: Vec<(usize, String)> = Vec::new();
            let markers: Vec<_> = inbox.gate.markers_alone().collect();
            if !markers.is_empty() {
                for row in ask(None, EARLIER_FILES)? {
                    let Some(at) = inbox.patterns.place_of(&row.file.source) else { continue };
                    let marker = inbox.gate.marker_of(at, &row.file.name);
                    let claimed = from_us(row.file.claimed_at_us);
                    let is_its = |(name, since): &(&str, SystemTime)| {
                        marker.as_deref() == Some(*name) && *since <= claimed
                    };
                    if markers.iter().any(is_its) {
                        done.push((at, row.file.name));
                    }
                }
            }
            for (at, name, since) in inbox.gate.missing() {
                let rows = ask(Some(name.clone()), 1)?;
                if rows.iter().any(|row| from_us(row.file.claimed_at_us) >= since) {
                    done.push((at, name));
                }
            }
            for (at, name) in done {
                inbox.accepted(at, [name.as_str()]);
            }
        }
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Takes hints until there is something to claim or it is time to scan.
    fn listen(&mut self, heard: &Receiver<Hint>, until: Instant) -> Heard {
        let soon = self.is_behind() && !self.space.is_short();
        let longest = if soon { PENDING_WAIT } else { Duration::from_millis(100) };
        let nap = until.saturating_duration_since(Instant::now()).min(longest);
        let mut all = Heard::Hints;
        match heard.recv_timeout(nap) {
            Ok(hint) => all = all.and(self.take_hint(hint)),
            Err(RecvTimeoutError::Timeout) => {}
            // Nothing watches: only scans find files.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(nap),
        }
        // What else came in the meantime goes into the same group.
        while let Ok(hint) = heard.try_recv() {
            all = all.and(self.take_hint(hint));
        }
        all
    }

    /// Returns whether complete files wait to be claimed.
    fn is_behind(&self) -> bool {
        let mut inboxes = self.inboxes.iter().enumerate();
        inboxes.any(|(at, inbox)| inbox.has_next(&self.control.open_sources(at)))
    }

    fn take_hint(&mut self, hint: Hint) -> Heard {
        let Hint::Complete { folder, name } = hint else { return Heard::Lost };
        let inbox = self.inboxes.iter_mut().find(|inbox| inbox.folders.unprocessed == folder);
        if let Some(inbox) = inbox {
            inbox.hint(&name);
        }
        Heard::Hints
    }

    /// Looks at every folder; returns how many files in them may still be written. When something
    /// was not told, it looks at each name, and begins anew to watch.
    fn scan(&mut self, heard: Heard, mut watch: Option<&mut Watch>) -> Result<usize, IntakeError> {
        let how = if heard == Heard::Lost { Scan::Full } else { Scan::Changes };
        let mut all = 0;
        for inbox in &mut self.inboxes {
            let folder = inbox.folders.unprocessed.clone();
            let failed =
                |source| IntakeError::Scan { folder: folder.display().to_string(), source };
            let Found { growing, is_other } =
                inbox.scan(how, self.patience.quiet).map_err(failed)?;
            all += growing;
            if (is_other || heard == Heard::Lost)
                && let Some(watch) = &mut watch
            {
                watch.follow_again(&folder);
                // What came before it was watched was not told.
                all += inbox.scan(Scan::Full, self.patience.quiet).map_err(failed)?.growing;
            }
        }
        Ok(all)
    }

    /// Claims everything that is complete, in groups, as far as not too many are pending; returns
    /// how many files that were.
    fn claim_complete(&mut self) -> Result<usize, IntakeError> {
        let mut count = 0;
        for pipeline in 0..self.inboxes.len() {
            self.inboxes[pipeline].try_again_due();
            self.inboxes[pipeline].pass();
            // A pipeline that is behind does not keep files from the others.
            while !self.stopped()
                && !self.space.is_short()
                && !self.held.is_held(pipeline)
                && self.board.pending(pipeline) < PENDING_MAX
            {
                let claimed = self.claim_group(pipeline)?;
                if claimed.is_none() {
                    break;
                }
                count += claimed.unwrap_or_default();
            }
            let inbox = &mut self.inboxes[pipeline];
            // What was taken has changed what the others wait for.
            inbox.pass();
            self.control.waiting(pipeline, inbox.waiting.counts(), inbox.gate.conditions());
            self.board.claims(pipeline, inbox.condition());
        }
        Ok(count)
    }

    /// Claims a group of files and hands them over; returns how many, `None` if none waits that may
    /// come in.
    fn claim_group(&mut self, pipeline: usize) -> Result<Option<usize>, IntakeError> {
        let control = self.control.clone();
        let _inside = control.enter();
        let open = control.open_sources(pipeline);
        let inbox = &mut self.inboxes[pipeline];
        if let Some(set) = inbox.next_set(&open) {
            return self.claim_set(pipeline, set).map(Some);
        }
        if !inbox.waiting.has_next(&open) {
            return Ok(None);
        }
        let mut group: Vec<(Claimed, NewFile)> = Vec::new();
        let mut bytes = 0;
        while group.len() < GROUP_FILES && bytes < GROUP_BYTES {
            let Some((source, name)) = inbox.waiting.pop(&open) else { break };
            if let Some(taken) = claim_one(inbox, source, &name, &self.numbers, &self.space)? {
                bytes += taken.1.identity.bytes;
                group.push(taken);
            }
        }
        if group.is_empty() {
            return Ok(Some(0));
        }
        self.hand_over(pipeline, group).map(Some)
    }

    /// Claims all files of a set, or none of them; returns how many.
    fn claim_set(&mut self, pipeline: usize, set: Ready) -> Result<usize, IntakeError> {
        let inbox = &mut self.inboxes[pipeline];
        let mut group: Vec<(Claimed, NewFile)> = Vec::with_capacity(set.names.len());
        for name in &set.names {
            let name = OsStr::new(name);
            match claim_one(inbox, set.source, name, &self.numbers, &self.space)? {
                Some(taken) => group.push(taken),
                None => {
                    // It is not whole any more: what was moved goes back, and waits for the rest.
                    for (claimed, file) in &group {
                        queue::release(&inbox.folders, claimed, &file.name).map_err(|source| {
                            IntakeError::Claim { name: file.name.clone(), source }
                        })?;
                    }
                    return Ok(0);
                }
            }
        }
        let incomplete = |why| (FileCode::SetIncomplete.word().to_owned(), why);
        if let Some(why) = set.refused.map(incomplete) {
            group.iter_mut().for_each(|(_, file)| file.terms.refused = Some(why.clone()));
        }
        let culprit = group.iter().find_map(|(_, file)| {
            let (code, text) = file.terms.refused.as_ref()?;
            Some(with_its_set(&set.label, &file.name, code, text))
        });
        let first = group.first().map_or(0, |(_, file)| file.id);
        for (_, file) in &mut group {
            if file.terms.refused.is_none() {
                file.terms.refused.clone_from(&culprit);
            }
            file.terms.set = Some(SetOf { first, label: set.label.clone() });
        }
        self.hand_over(pipeline, group)
    }

    /// Makes claims durable and hands them to the ledger; returns how many.
    fn hand_over(
        &mut self,
        pipeline: usize,
        group: Vec<(Claimed, NewFile)>,
    ) -> Result<usize, IntakeError> {
        let inbox = &mut self.inboxes[pipeline];
        let files: Vec<_> = group.iter().map(|(claimed, _)| &claimed.file).collect();
        queue::sync_claims(&files, &[&inbox.folders])
            .map_err(|source| IntakeError::Sync { source })?;
        let files: Vec<NewFile> = group.into_iter().map(|(_, file)| file).collect();
        let count = files.len();
        if inbox.gate.is_open() {
            // A ledger that has ended leaves the files to recovery.
            let _ = self.ledger.send(Event::Accept { files, reply: None });
            return Ok(count);
        }
        let (reply, answer) = channel();
        let _ = self.ledger.send(Event::Accept { files, reply: Some(reply) });
        // What lay beside them is removed behind the acceptance: if that is not to be, they go back
        // and find it there.
        if let Ok(accepted) = answer.recv() {
            for file in &accepted {
                if let Some(source) = inbox.patterns.place_of(&file.source) {
                    inbox.accepted(source, [file.name.as_str()]);
                }
            }
        }
        Ok(count)
    }
}

/// What was heard of the folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Hints, or nothing.
    Hints,
    /// That something was not told.
    Lost,
}

impl Heard {
    fn and(self, other: Self) -> Self {
        if self == Self::Lost { self } else { other }
    }
}

/// Claims one file, or says why it stays where it is.
fn claim_one(
    inbox: &mut Inbox,
    source: usize,
    name: &OsStr,
    numbers: &Numbers,
    space: &Space,
) -> Result<Option<(Claimed, NewFile)>, IntakeError> {
    let seen_at = inbox.forget(name);
    let id = numbers.take();
    let text = name.to_string_lossy().into_owned();
    let claim = || queue::claim(&inbox.folders, name, id);
    let claimed = match space.insist("claiming a file", claim) {
        Ok(claimed) => claimed,
        Err(ClaimError::Refused { source: error, .. }) => {
            let error = error.into();
            if !inbox.postpone(source, name, seen_at, &error) {
                return Err(IntakeError::Claim { name: text, source: error });
            }
            return Ok(None);
        }
        Err(ClaimError::Disk { source, .. }) => {
            return Err(IntakeError::Claim { name: text, source: source.into() });
        }
        Err(ClaimError::Gone { .. }) => {
            inbox.taken(name);
            return Ok(None);
        }
        Err(error) => {
            inbox.leave(name, &error.to_string());
            return Ok(None);
        }
    };
    inbox.taken(name);
    let mut terms = Terms::default();
    let mut known = None;
    if let Some(expected) = inbox.gate.expected(source, &text) {
        let bytes = claimed.identity.bytes;
        let compared = manifest::compare(&claimed.file, bytes, &expected.entry, expected.kind)
            .map_err(|source| IntakeError::Claim { name: text.clone(), source })?;
        match compared {
            Ok(hash) => known = hash,
            Err(why) => {
                let why = format!("its manifest {} {why}", expected.manifest);
                terms.refused = Some((FileCode::WrongManifest.word().to_owned(), why));
            }
        }
    }
    let source = inbox.patterns.name_of(source).to_owned();
    let dedupe = inbox.patterns.dedupe_of(&source);
    let replaces = inbox.patterns.replaces_of(&source);
    // Else it is hashed while it is processed.
    let hash = match dedupe {
        Dedupe::Content => Some(
            queue::hash(&claimed.file)
                .map_err(|source| IntakeError::Claim { name: text.clone(), source })?,
        ),
        Dedupe::None | Dedupe::Name => known,
    };
    let file = NewFile {
        id,
        pipeline: inbox.pipeline.clone(),
        source,
        name: text,
        claimed_name: claimed.claimed_name.clone(),
        identity: claimed.identity,
        hash,
        seen_at_us: to_us(seen_at),
        claimed_at_us: to_us(SystemTime::now()),
        client_id: None,
        dedupe,
        replaces,
        terms,
    };
    Ok(Some((claimed, file)))
}

/// Why the intake cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// A folder cannot be listed.
    #[error("list {folder}")]
    Scan {
        /// Which one.
        folder: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file cannot be claimed.
    #[error("claim {name}")]
    Claim {
        /// Its name.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The journal cannot be asked what is current.
    #[error("look for deleted inputs")]
    Journal(#[from] JournalError),
    /// The disk refused to make claims durable.
    #[error("sync claimed files")]
    Sync {
        /// What the system said.
        source: std::io::Error,
    },
}
