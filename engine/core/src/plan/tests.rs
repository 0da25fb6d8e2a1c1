//! What the pipeline file promises: what it refuses and how it says so, what a plan carries, what
//! its hash depends on.

mod mistakes;

mod composition;

mod hash;
mod pruning;

/// The example of the design and of the documentation.
pub(crate) const ACCESS_LOGS: &str = include_str!("../../../../examples/access-logs/pipeline.yaml");

/// The example that teaches `parse`.
pub(crate) const AUTH_GUARD: &str = include_str!("../../../../examples/auth-guard/pipeline.yaml");

/// Plans a file that must have no mistakes.
#[track_caller]
pub(crate) fn good(yaml: &str) -> crate::plan::Plan {
    match crate::plan::plan(yaml) {
        Ok(plan) => plan,
        Err(mistakes) => {
            let shown: Vec<String> =
                mistakes.iter().map(|mistake| mistake.render("pipeline.yaml", yaml)).collect();
            panic!("{}", shown.join("\n"));
        }
    }
}
