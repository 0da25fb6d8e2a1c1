//! Surroundings: what a pipeline file may ask of the world around it. Owns the questions, never the
//! answers: whoever plans a file decides whether it may read other files or the environment.

use tidemill_operators::expr::Secrets;

/// A value that is given to a parameter from outside of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenValue {
    /// The value, as text.
    pub value: String,
    /// Where it was given: `--param`, `TIDEMILL_PARAM_MAX`, the name of a file.
    pub origin: String,
}

/// A file that another one includes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncludedFile {
    /// What tells it from all others, whatever way leads to it.
    pub id: String,
    /// How it is called in messages.
    pub name: String,
    /// What stands in it.
    pub text: String,
}

/// Why something cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong, in a few words.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Refusal {
    /// Returns a refusal with a hint.
    pub fn new(message: impl Into<String>, hint: impl Into<Option<String>>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

/// What a pipeline file may ask for while it is planned.
pub trait Surroundings {
    /// Returns id and name of the pipeline file itself, if it is a file.
    fn file(&self) -> Option<(String, String)>;

    /// Reads a file that the file with the id `from` includes by this path.
    fn include(&self, path: &str, from: Option<&str>) -> Result<IncludedFile, Refusal>;

    /// Returns a variable of the environment.
    fn environment(&self, name: &str) -> Result<String, Refusal>;

    /// Returns what is given to a parameter, if anything is.
    fn parameter(&self, name: &str) -> Option<GivenValue>;

    /// Returns the keys that its expressions may hash with.
    fn secrets(&self) -> Secrets;
}

/// Surroundings of a text that somebody sent: nothing that could be shown, and keys to hash with.
#[derive(Clone, Debug, Default)]
pub struct Alone {
    /// The keys.
    pub secrets: Secrets,
}

impl Surroundings for Alone {
    fn file(&self) -> Option<(String, String)> {
        None
    }

    fn include(&self, _: &str, _: Option<&str>) -> Result<IncludedFile, Refusal> {
        let hint = "send the file as `tidemill check --flat FILE` prints it".to_owned();
        Err(Refusal::new("no files are included here: the text stands for itself", hint))
    }

    fn environment(&self, _: &str) -> Result<String, Refusal> {
        let hint = "send the file as `tidemill check --flat FILE` prints it".to_owned();
        Err(Refusal::new("the environment is not read here: the text stands for itself", hint))
    }

    fn parameter(&self, _: &str) -> Option<GivenValue> {
        None
    }

    fn secrets(&self) -> Secrets {
        self.secrets.clone()
    }
}
