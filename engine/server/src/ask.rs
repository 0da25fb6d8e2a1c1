//! Ask: one question to the engine, on a thread that may block, with an end.

use std::time::Duration;

use crate::backend::Backend;
use crate::refusal::Refusal;

/// Asks the engine something, and gives up after `limit`.
pub(crate) async fn ask<B, T>(
    backend: &B,
    limit: Duration,
    question: impl FnOnce(&B) -> T + Send + 'static,
) -> Result<T, Refusal>
where
    B: Backend,
    T: Send + 'static,
{
    let backend = backend.clone();
    let answer = tokio::task::spawn_blocking(move || question(&backend));
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            tracing::error!(%error, "a question to the engine failed");
            Err(Refusal::Internal)
        }
        Err(_) => Err(Refusal::NoAnswer { limit }),
    }
}

/// Checks that a pipeline of this name runs, when one is named.
pub(crate) fn known_pipeline<B: Backend>(backend: &B, name: Option<&str>) -> Result<(), Refusal> {
    let Some(name) = name else { return Ok(()) };
    let running = names(backend);
    if running.iter().any(|known| known == name) {
        return Ok(());
    }
    // An overlong name is not worth repeating.
    let name = name.chars().take(100).collect();
    Err(Refusal::Pipeline { name, running: running.join(", ") })
}

/// Returns the names of the pipelines that run.
pub(crate) fn names<B: Backend>(backend: &B) -> Vec<String> {
    backend.pipelines().into_iter().map(|pipeline| pipeline.name).collect()
}
