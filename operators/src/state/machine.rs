//! Machine: states, variables and guarded transitions, run over the records of one key in order. Pure.
//!
//! The first transition that fits the state and whose guard is true is taken; without one the record
//! changes nothing. What a transition sets is computed from what was before it, all at once. A guard or
//! a value that fails (overflow, a cast that does not fit) takes no transition: the record leaves as one
//! that changed nothing, and the trouble is told.

use serde::{Deserialize, Serialize};

use crate::expr::{Expr, Fixed, Steps, Stepwise, Variables};
use crate::types::{Column, Schema, Type};
use crate::value::Value;

/// The name by which expressions read the state, unless a column or variable is called so.
pub const STATE: &str = "state";

/// A machine as it is described.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// The names of the states; the first one is where a key begins.
    pub states: Vec<String>,
    /// By which port a record leaves that leaves by the name of its state; `None`: not at all.
    pub homes: Vec<Option<usize>>,
    /// What a key remembers beside its state.
    pub variables: Vec<Variable>,
    /// In the order in which they are tried.
    pub transitions: Vec<Transition>,
    /// Columns that each record gets, computed behind its transition.
    pub add: Vec<(String, Expr)>,
}

/// What a key remembers.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// Its name and type.
    pub column: Column,
    /// Its value when a key begins.
    pub initial: Value,
}

/// One way from state to state.
#[derive(Clone, Debug)]
pub struct Transition {
    /// The states it leads away from; none named means all.
    pub from: Vec<usize>,
    /// When it is taken; `None`: always.
    pub when: Option<Expr>,
    /// The variables it gives new values; `None` is NULL.
    pub set: Vec<(usize, Option<Expr>)>,
    /// The state it leads to; `None`: the one it comes from.
    pub goto: Option<usize>,
    /// How the record leaves.
    pub leave: Leave,
}

/// How a record leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leave {
    /// By the port of the state it is in behind the transition.
    Home,
    /// By this port.
    Port(usize),
    /// Not at all: it is dropped on purpose.
    Drop,
}

/// What a key is like between two records.
#[derive(Clone, Debug)]
pub struct Moment {
    state: usize,
    variables: Variables,
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The port it leaves by, if it does.
    pub port: Option<usize>,
    /// The cells that were added to it.
    pub added: Vec<Value>,
    /// What failed on it.
    pub trouble: Option<String>,
}

/// A machine that runs.
pub struct Machine {
    spec: MachineSpec,
    /// Whether some expression reads the state.
    reads_state: bool,
    whens: Vec<Option<Stepwise>>,
    sets: Vec<Vec<(usize, Option<Stepwise>)>>,
    adds: Vec<Stepwise>,
}

impl MachineSpec {
    /// Returns the names that its expressions may read beside the columns of records.
    pub fn visible(&self, columns: &Schema) -> Vec<Column> {
        let variables = self.variables.iter().map(|variable| variable.column.clone());
        let mut visible: Vec<Column> = variables.collect();
        if columns.column(STATE).is_none() && visible.iter().all(|one| one.name != STATE) {
            visible.push(Column::new(STATE, Type::String));
        }
        visible
    }

    /// Returns all its expressions.
    pub fn expressions(&self) -> impl Iterator<Item = &Expr> {
        let sets = self.transitions.iter().flat_map(|one| &one.set);
        self.transitions
            .iter()
            .filter_map(|one| one.when.as_ref())
            .chain(sets.filter_map(|(_, value)| value.as_ref()))
            .chain(self.add.iter().map(|(_, value)| value))
    }

    /// Returns the columns that each record gets.
    pub fn added(&self) -> Vec<Column> {
        self.add.iter().map(|(name, value)| Column::new(name, value.kind())).collect()
    }
}

impl Machine {
    /// Returns a machine over records of these columns.
    pub fn new(spec: MachineSpec, columns: &Schema) -> Self {
        let visible = spec.visible(columns);
        let bind = |expr: &Expr| Stepwise::new(expr.clone(), columns, &visible);
        let whens = spec.transitions.iter().map(|one| one.when.as_ref().map(bind)).collect();
        let set = |(at, value): &(usize, Option<Expr>)| (*at, value.as_ref().map(bind));
        let sets = spec.transitions.iter().map(|one| one.set.iter().map(set).collect()).collect();
        let adds = spec.add.iter().map(|(_, value)| bind(value)).collect();
        let has_state = visible.len() > spec.variables.len();
        let reads = |expr: &Expr| expr.columns().iter().any(|name| name == STATE);
        let reads_state = has_state && spec.expressions().any(reads);
        Self { reads_state, whens, sets, adds, spec }
    }

    /// Returns what a key is like before its first record.
    pub fn start(&self) -> Moment {
        self.moment(0, self.spec.variables.iter().map(|one| one.initial.clone()).collect())
    }

    /// Returns what a key is like in this state, with these values.
    pub fn moment(&self, state: usize, mut values: Vec<Value>) -> Moment {
        let mut kinds: Vec<Type> = self.spec.variables.iter().map(|one| one.column.kind).collect();
        kinds.push(Type::String);
        values.push(Value::String(self.spec.states[state].clone()));
        Moment { state, variables: Variables::new(kinds, values) }
    }

    /// Runs over records from a moment on; `tell` hears of each what became of it.
    pub fn run(&self, steps: &Steps, from: Moment, mut tell: impl FnMut(usize, Outcome)) -> Moment {
        let mut moment = from;
        // A guard that reads no variable is asked once, of all records.
        let fixed: Vec<Option<Fixed>> =
            self.whens.iter().map(|when| when.as_ref()?.fixed(steps)).collect();
        for row in 0..steps.len() {
            let outcome = self.step(steps, row, &fixed, &mut moment);
            tell(row, outcome);
        }
        moment
    }

    fn step(
        &self,
        steps: &Steps,
        row: usize,
        fixed: &[Option<Fixed>],
        moment: &mut Moment,
    ) -> Outcome {
        let mut outcome = Outcome {
            port: self.spec.homes[moment.state],
            added: Vec::with_capacity(self.adds.len()),
            trouble: None,
        };
        match self.find(steps, row, fixed, moment) {
            Ok(None) => {}
            Ok(Some((at, values))) => {
                let transition = &self.spec.transitions[at];
                for ((variable, _), value) in transition.set.iter().zip(values) {
                    moment.variables.set(*variable, value);
                }
                if let Some(goto) = transition.goto.filter(|goto| *goto != moment.state) {
                    moment.state = goto;
                    if self.reads_state {
                        let name = Value::String(self.spec.states[goto].clone());
                        moment.variables.set(self.spec.variables.len(), name);
                    }
                }
                outcome.port = match transition.leave {
                    Leave::Home => self.spec.homes[moment.state],
                    Leave::Port(port) => Some(port),
                    Leave::Drop => None,
                };
            }
            Err(trouble) => outcome.trouble = Some(trouble),
        }
        if outcome.port.is_some() {
            for (add, (name, _)) in self.adds.iter().zip(&self.spec.add) {
                let value = add.at(steps, row, &moment.variables).unwrap_or_else(|trouble| {
                    outcome.trouble.get_or_insert_with(|| format!("{name}: {trouble}"));
                    Value::Null
                });
                outcome.added.push(value);
            }
        }
        outcome
    }

    /// Finds the transition that is taken, and what it sets.
    fn find(
        &self,
        steps: &Steps,
        row: usize,
        fixed: &[Option<Fixed>],
        moment: &Moment,
    ) -> Result<Option<(usize, Vec<Value>)>, String> {
        for (at, transition) in self.spec.transitions.iter().enumerate() {
            if !transition.from.is_empty() && !transition.from.contains(&moment.state) {
                continue;
            }
            let holds = match (&self.whens[at], &fixed[at]) {
                (None, _) => Value::Bool(true),
                (_, Some(fixed)) => fixed.at(row)?,
                (Some(when), None) => when.at(steps, row, &moment.variables)?,
            };
            if holds != Value::Bool(true) {
                continue;
            }
            let value = |(_, value): &(usize, Option<Stepwise>)| match value {
                Some(value) => value.at(steps, row, &moment.variables),
                None => Ok(Value::Null),
            };
            let values = self.sets[at].iter().map(value).collect::<Result<Vec<_>, _>>()?;
            return Ok(Some((at, values)));
        }
        Ok(None)
    }
}

impl Moment {
    /// Returns the state, by its place among the states.
    pub const fn state(&self) -> usize {
        self.state
    }

    /// Returns the values of the variables.
    pub fn values(&self) -> &[Value] {
        // The last one is the name of the state.
        self.variables.values().split_last().map_or(&[], |(_, values)| values)
    }
}
