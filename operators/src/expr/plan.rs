//! Plan: an expression after checking, typed and ready to run. Immutable, shared, and of bounded
//! height, so that walking it (and dropping it) cannot exhaust the stack.

use std::fmt;
use std::sync::Arc;

use crate::decimal::{Decimal, PRECISION_MAX, Rounding};
use crate::expr::Secret;
use crate::expr::pattern::{Extractor, Pattern, Replacer};
use crate::expr::vector::Scalar;
use crate::types::Type;

/// The greatest height of a plan.
pub(super) const HEIGHT_MAX: u16 = 256;

/// One step of a plan with what is known about everything below it.
pub(super) struct Node {
    pub(super) plan: Plan,
    /// Whether some row can end in an error.
    pub(super) fallible: bool,
    /// Whether it is worth skipping rows that nobody asks for: it may fail or it is slow.
    pub(super) masked: bool,
    pub(super) height: u16,
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// Arithmetic with two operands of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

impl Arithmetic {
    pub(super) const fn sign(self) -> &'static str {
        match self {
            Arithmetic::Add => "+",
            Arithmetic::Subtract => "-",
            Arithmetic::Multiply => "*",
            Arithmetic::Divide => "/",
            Arithmetic::Modulo => "%",
        }
    }
}

/// What arithmetic computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    Long,
    Double,
    /// Decimals of two types, and the type of the outcome.
    Wide {
        left: Decimal,
        right: Decimal,
        to: Decimal,
    },
}

/// The constants of an IN list, made for quick questions.
#[derive(Debug)]
pub(super) enum Set {
    Long(Vec<i64>),
    Double(Vec<f64>),
    Wide(Vec<i128>),
    Bool(Vec<bool>),
    Text(hashbrown::HashSet<Arc<str>>),
}

/// A part of an instant that `extract` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Microsecond,
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
    IsoYear,
    DayOfWeek,
    IsoDayOfWeek,
    DayOfYear,
    Epoch,
}

/// A function of one to four arguments; NULL in, NULL out.
#[derive(Debug)]
pub(super) enum Function {
    Lower,
    Upper,
    Trim {
        left: bool,
        right: bool,
    },
    Length,
    Substring,
    Replace,
    SplitPart,
    StartsWith,
    EndsWith,
    Contains,
    Position,
    Left,
    Right,
    Matches(Pattern),
    Extract(Extractor),
    /// The HMAC of a text, with a key if there is one.
    Authenticate {
        name: Box<str>,
        key: Option<Secret>,
    },
    Substitute(Replacer),
    DateTrunc(Unit),
    DatePart(Unit),
    Absolute {
        double: bool,
    },
    Round,
    Floor,
    Ceil,
    /// To so many digits behind the point, of a decimal of this scale.
    RoundWide {
        scale: u8,
        places: i64,
        rounding: Rounding,
        to: Decimal,
    },
    SquareRoot,
    Power,
    Negate {
        double: bool,
    },
}

/// What a node computes.
pub(super) enum Plan {
    Constant(Scalar),
    Column {
        slot: usize,
    },
    Arithmetic {
        op: Arithmetic,
        domain: Domain,
        left: Arc<Node>,
        right: Arc<Node>,
    },
    Compare {
        op: Comparison,
        left: Arc<Node>,
        right: Arc<Node>,
    },
    Distinct {
        left: Arc<Node>,
        right: Arc<Node>,
        negated: bool,
    },
    And(Vec<Arc<Node>>),
    Or(Vec<Arc<Node>>),
    Not(Arc<Node>),
    IsNull {
        operand: Arc<Node>,
        negated: bool,
    },
    /// `IS [NOT] TRUE | FALSE`.
    Is {
        operand: Arc<Node>,
        wanted: bool,
        negated: bool,
    },
    InSet {
        operand: Arc<Node>,
        set: Set,
        has_null: bool,
    },
    InList {
        operand: Arc<Node>,
        items: Vec<Arc<Node>>,
    },
    Between {
        operand: Arc<Node>,
        low: Arc<Node>,
        high: Arc<Node>,
    },
    Case {
        operand: Option<Arc<Node>>,
        branches: Vec<(Arc<Node>, Arc<Node>)>,
        otherwise: Arc<Node>,
    },
    Coalesce(Vec<Arc<Node>>),
    NullIf {
        left: Arc<Node>,
        right: Arc<Node>,
    },
    Extreme {
        items: Vec<Arc<Node>>,
        greatest: bool,
    },
    /// Joins texts; `strict` makes NULL infectious (`||`), otherwise it is skipped (`concat`).
    Concat {
        items: Vec<Arc<Node>>,
        strict: bool,
    },
    Cast {
        operand: Arc<Node>,
        from: Type,
        to: Type,
        lenient: bool,
    },
    Call {
        function: Function,
        arguments: Vec<Arc<Node>>,
    },
}

impl Plan {
    /// Returns the nodes directly below.
    pub(super) fn children(&self) -> Vec<&Arc<Node>> {
        match self {
            Plan::Constant(_) | Plan::Column { .. } => vec![],
            Plan::Arithmetic { left, right, .. }
            | Plan::Compare { left, right, .. }
            | Plan::Distinct { left, right, .. }
            | Plan::NullIf { left, right } => vec![left, right],
            Plan::Not(operand)
            | Plan::IsNull { operand, .. }
            | Plan::Is { operand, .. }
            | Plan::InSet { operand, .. }
            | Plan::Cast { operand, .. } => vec![operand],
            Plan::Between { operand, low, high } => vec![operand, low, high],
            Plan::InList { operand, items } => std::iter::once(operand).chain(items).collect(),
            Plan::And(items)
            | Plan::Or(items)
            | Plan::Coalesce(items)
            | Plan::Extreme { items, .. }
            | Plan::Concat { items, .. }
            | Plan::Call { arguments: items, .. } => items.iter().collect(),
            Plan::Case { operand, branches, otherwise } => operand
                .iter()
                .chain(branches.iter().flat_map(|(when, then)| [when, then]))
                .chain(std::iter::once(otherwise))
                .collect(),
        }
    }

    /// Returns whether this step itself can fail for some row.
    fn fails(&self) -> bool {
        match self {
            Plan::Arithmetic { op, domain, right, .. } => arithmetic_fails(*op, *domain, right),
            Plan::Cast { from, to, lenient, .. } => !lenient && cast_fails(*from, *to),
            Plan::Concat { .. } => true,
            Plan::Call { function, .. } => matches!(
                function,
                Function::RoundWide { .. }
                    | Function::Replace
                    | Function::Substitute(_)
                    | Function::Authenticate { key: None, .. }
                    | Function::SplitPart
                    | Function::Substring
                    | Function::Absolute { double: false }
                    | Function::SquareRoot
                    | Function::Power
                    | Function::Negate { double: false }
                    | Function::DateTrunc(_)
            ),
            _ => false,
        }
    }

    /// Returns whether this step costs much more per row than reading the row.
    fn slow(&self) -> bool {
        matches!(
            self,
            Plan::Call { .. } | Plan::Cast { .. } | Plan::Concat { .. } | Plan::Case { .. }
        )
    }
}

fn arithmetic_fails(op: Arithmetic, domain: Domain, right: &Node) -> bool {
    // A type that was not cut to the most digits there are holds every outcome.
    let is_cut = matches!(domain, Domain::Wide { to, .. } if to.precision() == PRECISION_MAX);
    match (op, &right.plan) {
        (Arithmetic::Divide | Arithmetic::Modulo, Plan::Constant(Scalar::Wide(by))) => {
            *by == 0 || is_cut
        }
        (Arithmetic::Divide | Arithmetic::Modulo, Plan::Constant(Scalar::Long(by))) => {
            *by == 0 || *by == -1
        }
        (Arithmetic::Divide | Arithmetic::Modulo, Plan::Constant(Scalar::Double(by))) => *by == 0.0,
        (Arithmetic::Divide | Arithmetic::Modulo, _) => true,
        _ => is_cut || domain == Domain::Long,
    }
}

fn cast_fails(from: Type, to: Type) -> bool {
    match (from, to) {
        (from, to) if from == to => false,
        (Type::Decimal(from), Type::Decimal(to)) => {
            let carry = u8::from(to.scale() < from.scale());
            to.whole() < from.whole() + carry
        }
        (Type::Int, Type::Decimal(to)) => to.whole() < Decimal::INT.whole(),
        (_, Type::Decimal(_)) => true,
        (Type::Decimal(_), Type::Float | Type::Bool) => false,
        (_, Type::String) | (Type::Bool, _) | (Type::Int, Type::Float | Type::Bool) => false,
        (Type::Timestamp, _) => false,
        _ => true,
    }
}

impl Node {
    /// Returns the node of a plan; `None` when it would be higher than [`HEIGHT_MAX`].
    pub(super) fn new(plan: Plan) -> Option<Arc<Self>> {
        let (mut fallible, mut masked, mut height) = (plan.fails(), plan.slow(), 0);
        for child in plan.children() {
            fallible |= child.fallible;
            masked |= child.masked;
            height = height.max(child.height);
        }
        if height >= HEIGHT_MAX {
            return None;
        }
        Some(Arc::new(Node { plan, fallible, masked: masked || fallible, height: height + 1 }))
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Node {{ fallible: {}, height: {} }}", self.fallible, self.height)
    }
}
