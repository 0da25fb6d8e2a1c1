//! Peers: what the processes of a run tell each other beside the dataflow, and how all of them end
//! when one is lost.
//!
//! A lost, silent or stopped process is the end of the generation for everybody: process 0 hears of it
//! first, tells the others why, and ends; they end too. Nothing is repaired in place.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::spawn;
use crate::fault;
use crate::mesh::{Control, ControlEvent, ControlSender};
use crate::stats::{Stats, Told};

/// How often the other processes tell process 0 what their operators do.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// What each process tells before it ends well: its loss is none.
const THROUGH: &[u8] = b"through";

/// Begins what process 0 tells the others when the generation is over; the reason follows.
const OVER: &[u8] = b"over: ";

/// How much of a reason is repeated, in bytes.
const REASON_BYTES_MAX: usize = 300;

/// Says to all peers that this process ends well.
pub(super) fn say_through(peers: &ControlSender) {
    // One that is gone needs no word.
    let _ = peers.broadcast(THROUGH);
}

/// In process 0: takes what the other processes tell. If one is lost before the end, the run is over.
pub(super) fn listen(control: Control, stats: Stats) -> std::io::Result<()> {
    spawn("tidemill:peers", move || {
        let mut through = BTreeSet::new();
        while let Some(event) = control.recv() {
            match event {
                ControlEvent::Message(process, bytes) if bytes == THROUGH => {
                    through.insert(process);
                }
                ControlEvent::Message(process, bytes) => {
                    if let Ok(told) = serde_json::from_slice::<Told>(&bytes) {
                        stats.hear(process, told);
                    }
                }
                ControlEvent::Lost(process) | ControlEvent::Silent(process, _)
                    if through.contains(&process) => {}
                // The others have given up, or are about to.
                ControlEvent::StoodStill(_)
                    if through.len() == control.sender().peers().count() => {}
                lost => {
                    let why = reason(&lost);
                    let gone = match lost {
                        ControlEvent::Lost(process) | ControlEvent::Silent(process, _) => {
                            Some(process)
                        }
                        _ => None,
                    };
                    let word = [OVER, why.as_bytes()].concat();
                    let sender = control.sender();
                    for peer in sender.peers().filter(|peer| Some(*peer) != gone) {
                        // If it is gone too, it needs no word.
                        let _ = sender.send(peer, &word);
                    }
                    fault::peer(&why);
                }
            }
        }
    })
    .map(|_| ())
}

/// In another process: tells process 0 what the operators here do, until the end. If process 0 is
/// lost, or says that another one is, the run is over.
pub(super) fn tell(control: &Control, stats: &Stats, ended: &AtomicBool) {
    let mut told_at: Option<Instant> = None;
    while !ended.load(Ordering::Relaxed) {
        let wait = told_at.map_or(Duration::ZERO, |at| TELL_EVERY.saturating_sub(at.elapsed()));
        match control.recv_timeout(wait) {
            Some(ControlEvent::Message(_, word)) if word == THROUGH => return,
            Some(ControlEvent::Message(_, word)) => {
                if let Some(why) = word.strip_prefix(OVER) {
                    let why = why.get(..REASON_BYTES_MAX).unwrap_or(why);
                    fault::peer(&String::from_utf8_lossy(why));
                }
            }
            Some(lost) => fault::peer(&reason(&lost)),
            None if wait.is_zero() || told_at.is_some_and(|at| at.elapsed() >= TELL_EVERY) => {
                told_at = Some(Instant::now());
                if let Ok(told) = serde_json::to_vec(&stats.tell()) {
                    // The event that says why is on its way.
                    let _ = control.send(0, &told);
                }
            }
            None => {}
        }
    }
}

/// Says in words what ended the generation.
fn reason(event: &ControlEvent) -> String {
    match event {
        ControlEvent::Lost(process) | ControlEvent::Message(process, _) => {
            format!("process {process} is gone")
        }
        ControlEvent::Silent(process, silence) => {
            format!("process {process} was silent for {silence:?}: it is stopped, or cut off")
        }
        ControlEvent::StoodStill(stood) => {
            let stood = Duration::from_millis(u64::try_from(stood.as_millis()).unwrap_or(u64::MAX));
            format!("this process stood still for {stood:?}, and the others have given it up")
        }
    }
}
