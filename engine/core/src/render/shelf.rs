//! Shelf: a files sink whose outputs change, to its dataflow.

use tidemill_operators::Time;
use tidemill_operators::meter::Meter;
use tidemill_operators::shards::Mark;
use timely::dataflow::StreamVec;
use timely::dataflow::operators::core::Map as _;
use timely::dataflow::operators::vec::Broadcast;

use crate::checkpoint::keeper::{Desk, PackPlace};
use crate::checkpoint::restore::restored;
use crate::checkpoint::{Order, files_fingerprint, files_state};
use crate::ingest::order::Opening;
use crate::render::{Batches, Rendering};
use crate::sink::parts::{FileSink, Written};
use crate::sink::shelf::state::decode_pieces;
use crate::sink::shelf::{Incoming, shelf};

impl<'scope> Rendering<'scope, '_> {
    /// Builds a sink; `at` is its place in the plan.
    pub(super) fn shelf(
        &mut self,
        at: usize,
        (title, ways): (String, Vec<Batches<'scope>>),
        openings: StreamVec<'scope, Time, Opening>,
        poison: Option<StreamVec<'scope, Time, u64>>,
        file: FileSink,
        meter: Meter,
    ) -> Written<'scope> {
        const STATEFUL: &str = "outputs change behind operators that keep state only";
        let orders = self.orders.clone().expect(STATEFUL);
        let packs = PackPlace {
            folder: self.around.home.checkpoints(&self.plan.name),
            generation: self.around.generation,
            state: files_state(&file.name),
            fingerprint: files_fingerprint(self.plan, at),
            suffix: format!("f{at}-w{}", self.index),
        };
        let (folder, state) = (packs.folder.clone(), packs.state.clone());
        let restored = restored(&title, orders.clone(), folder, state, decode_pieces);
        let marks = orders
            .flat_map(|order| if let Order::Mark(mark) = order { Some(mark) } else { None })
            .container::<Vec<Mark>>();
        let incoming = Incoming {
            ways,
            openings: openings.broadcast(),
            poison: poison.expect(STATEFUL),
            restored,
            marks,
        };
        let keeper = self.keeper.clone();
        let make = move |wake| Desk::new(keeper, packs, wake);
        let made = shelf(self.scope, &title, incoming, file, self.around.clone(), meter, make);
        self.kept.push(made.kept);
        Written { parts: made.parts, taken: made.taken }
    }
}
