//! Retry: asks again while the server is away for a moment.
//!
//! For questions only: asked twice they do no harm. A server that starts says so (`starting`), and is
//! asked for longer than one of which nothing is heard. One that says that it stops is not asked again.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::error::Error;

/// How long a server that is away is asked again.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// While it says that it starts.
    starting: Duration,
    /// While nothing is heard of it.
    gone: Duration,
    /// How long it may take to find out that nobody is there. A call that lasted longer was in the
    /// hands of a server, however it ended.
    connect: Duration,
    /// The first pause between two attempts, and the longest.
    pauses: (Duration, Duration),
}

const USUAL: Patience = Patience {
    starting: Duration::from_secs(60),
    gone: Duration::from_secs(10),
    connect: Duration::from_secs(6),
    pauses: (Duration::from_millis(50), Duration::from_secs(2)),
};

/// Asks until there is an answer, or an error that asking again does not help, or the server has been
/// away for too long.
pub(crate) async fn patiently<T, F>(ask: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    ask_within(USUAL, ask).await
}

async fn ask_within<T, F>(patience: Patience, mut ask: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let (mut pause, pause_max) = patience.pauses;
    // Both begin anew when a server was there until just now.
    let mut began = Instant::now();
    let mut heard = began;
    loop {
        let asked = Instant::now();
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if asked.elapsed() > patience.connect {
            (began, heard, pause) = (Instant::now(), Instant::now(), patience.pauses.0);
        }
        let left = match absence(&error) {
            None => return Err(error),
            Some(Absence::Starting) => {
                heard = Instant::now();
                patience.starting.saturating_sub(began.elapsed())
            }
            Some(Absence::Gone) => patience
                .gone
                .saturating_sub(heard.elapsed())
                .min(patience.starting.saturating_sub(began.elapsed())),
        };
        if left.is_zero() {
            return Err(error);
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(pause_max);
    }
}

/// In which way a server is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absence {
    /// It says that it starts.
    Starting,
    /// The connection is lost, or cannot be made.
    Gone,
}

fn absence(error: &Error) -> Option<Absence> {
    match error {
        Error::Server { status: Code::Unavailable, word: Some(word), .. } if word == "starting" => {
            Some(Absence::Starting)
        }
        // The server's own answers have a word; these are the network's.
        Error::Server {
            status: Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled,
            word: None,
            ..
        } => Some(Absence::Gone),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Patience = Patience {
        starting: Duration::from_millis(300),
        gone: Duration::from_millis(60),
        connect: Duration::from_millis(30),
        pauses: (Duration::from_millis(1), Duration::from_millis(8)),
    };

    fn away(status: Code, word: Option<&str>) -> Error {
        Error::Server { status, word: word.map(str::to_owned), message: String::new() }
    }

    fn starting() -> Error {
        away(Code::Unavailable, Some("starting"))
    }

    fn gone() -> Error {
        away(Code::Unavailable, None)
    }

    /// Asks a server that answers so, the last answer for ever, and says whether there was an answer,
    /// how often it was asked, and for how long.
    fn check(answers: Vec<Result<(), Error>>) -> (bool, usize, Duration) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime of one thread");
        runtime.block_on(async {
            let began = Instant::now();
            let mut asked = 0;
            let result = ask_within(QUICK, || {
                asked += 1;
                let answer = match &answers[(asked - 1).min(answers.len() - 1)] {
                    Ok(()) => Ok(()),
                    Err(Error::Server { status, word, .. }) => Err(away(*status, word.as_deref())),
                    Err(_) => unreachable!("only servers answer here"),
                };
                std::future::ready(answer)
            })
            .await;
            (result.is_ok(), asked, began.elapsed())
        })
    }

    #[test]
    fn a_server_that_comes_back_is_found() {
        let (answered, asked, _) = check(vec![Ok(())]);
        assert_eq!((answered, asked), (true, 1));
        let (answered, asked, _) = check(vec![Err(gone()), Err(starting()), Err(gone()), Ok(())]);
        assert_eq!((answered, asked), (true, 4));
    }

    #[test]
    fn a_server_that_does_not_come_back_is_given_up() {
        let (answered, asked, took) = check(vec![Err(gone())]);
        assert!(!answered && asked > 1 && took >= QUICK.gone, "{asked} {took:?}");
        let (answered, asked, took) = check(vec![Err(starting())]);
        assert!(!answered && asked > 1 && took >= QUICK.starting, "{asked} {took:?}");
        // Heard of once, and then not any more: the shorter time begins anew.
        let mut answers: Vec<_> = (0..6).map(|_| Err(starting())).collect();
        answers.push(Err(gone()));
        let (answered, asked, took) = check(answers);
        assert!(!answered && asked > 7 && took >= QUICK.gone, "{asked} {took:?}");
    }

    #[test]
    fn a_server_that_held_a_call_for_long_and_dies_is_asked_again() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime of one thread");
        let mut asked = 0;
        let result = runtime.block_on(ask_within(USUAL, || {
            asked += 1;
            let (held, answer) = match asked {
                1 => (USUAL.starting * 2, Err(gone())),
                2 => (Duration::ZERO, Err(starting())),
                3 => (USUAL.gone * 2, Err(gone())),
                4 => (Duration::ZERO, Err(gone())),
                _ => (Duration::ZERO, Ok(())),
            };
            async move {
                tokio::time::sleep(held).await;
                answer
            }
        }));
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(asked, 5);
    }

    #[test]
    fn a_refusal_is_an_answer() {
        for (status, word) in [
            (Code::Unavailable, Some("draining")),
            (Code::Unavailable, Some("disk_refuses")),
            (Code::NotFound, Some("not_found")),
            (Code::DeadlineExceeded, Some("still_open")),
            (Code::InvalidArgument, None),
        ] {
            let (answered, asked, _) = check(vec![Err(away(status, word))]);
            assert_eq!((answered, asked), (false, 1), "{status:?} {word:?}");
        }
    }
}
