//! Flow: how far the sinks have taken in what was given out. The least of several frontiers, each
//! seen by a probe of its own.

use std::cell::RefCell;
use std::rc::Rc;

use tidemill_operators::Time;
use timely::dataflow::ProbeHandle;

/// The frontier of everything that takes records in. All clones are the same; one per worker.
#[derive(Clone, Default)]
pub struct Flow {
    probes: Rc<RefCell<Vec<ProbeHandle<Time>>>>,
}

impl Flow {
    /// Lets the flow wait for one more probe.
    pub fn follow(&self, probe: ProbeHandle<Time>) {
        self.probes.borrow_mut().push(probe);
    }

    /// Returns whether something may still come, or is still under way, at this time or before.
    pub fn less_equal(&self, time: &Time) -> bool {
        self.probes.borrow().iter().any(|probe| probe.less_equal(time))
    }

    /// Returns the least time that may still come, or nothing if none can.
    pub fn least(&self) -> Option<Time> {
        let probes = self.probes.borrow();
        probes.iter().filter_map(|probe| probe.with_frontier(|all| all.first().copied())).min()
    }
}
