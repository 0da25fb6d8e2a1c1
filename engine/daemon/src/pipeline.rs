//! Pipeline: reads pipeline files, with the files they include, the parameters they are given and the
//! environment. Owns what a file may read, and from where; never what it means.
//!
//! An included file is found from the folder of the one that includes it and lies in the folder of the first
//! one or below, unless its path is absolute. Only plain files are opened.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tidemill_engine::plan::{
    Alone, FILE_BYTES_MAX, GivenValue, IncludedFile, Refusal, Secrets, Surroundings, plan_in,
    read_values,
};
use tidemill_engine::{Diagnostic, Plan, testing};

use tidemill_cli::ParamFlags;
use tidemill_store::Deployment;

use crate::{complain, secrets};

/// The beginning of the variables that give values to parameters.
const VARIABLES: &str = "TIDEMILL_PARAM_";

/// The mistakes in one pipeline file.
pub struct Mistakes {
    /// The name of the file.
    pub file: String,
    /// Its text.
    pub yaml: String,
    /// The mistakes, by place.
    pub diagnostics: Vec<Diagnostic>,
}

impl Mistakes {
    /// Shows them to a person.
    pub fn complain(&self) {
        for diagnostic in &self.diagnostics {
            complain(diagnostic.render(&self.file, &self.yaml).trim_end());
            complain("");
        }
        complain(&format!("{}: {}", self.file, self.count()));
    }

    /// Returns them as a person reads them: how many, then each with its place.
    pub fn text(&self) -> String {
        let each = self.diagnostics.iter().map(|one| one.render(&self.file, &self.yaml));
        let each: Vec<String> = each.map(|text| text.trim_end().to_owned()).collect();
        format!("{}\n{}", self.count(), each.join("\n\n"))
    }

    fn count(&self) -> String {
        match self.diagnostics.len() {
            1 => "1 mistake".to_owned(),
            count => format!("{count} mistakes"),
        }
    }
}

/// The values that are given to parameters, for all pipeline files of a command.
#[derive(Debug, Default)]
pub struct Values {
    flags: BTreeMap<String, String>,
    /// Those of a file, each with the place where it stands.
    file: BTreeMap<String, (String, String)>,
    /// What counts where nothing is given: the values with which a file was deployed.
    remembered: RefCell<BTreeMap<String, String>>,
    /// The parameters that some file has.
    asked: RefCell<BTreeSet<String>>,
    /// What the parameters of the file that was read last were given.
    given: RefCell<BTreeMap<String, String>>,
    /// What expressions may hash with.
    secrets: Secrets,
}

impl Values {
    /// Reads what the flags say; `None` for a mistake, which is told.
    pub fn gather(flags: &ParamFlags) -> anyhow::Result<Option<Self>> {
        let mut values = Self { secrets: secrets::gather()?, ..Self::default() };
        for written in &flags.param {
            let Some((name, value)) = written.split_once('=') else {
                complain(&format!("error: --param {written}: write --param NAME=VALUE"));
                return Ok(None);
            };
            if values.flags.insert(name.to_owned(), value.to_owned()).is_some() {
                complain(&format!("error: --param {name} is given twice"));
                return Ok(None);
            }
        }
        if let Some(path) = &flags.params {
            let yaml = std::fs::read_to_string(path)
                .with_context(|| format!("read the file of parameters {}", path.display()))?;
            let file = path.display().to_string();
            match read_values(&yaml) {
                Ok(read) => {
                    let with_place =
                        |(name, value, line)| (name, (value, format!("{file}:{line}")));
                    values.file.extend(read.into_iter().map(with_place));
                }
                Err(diagnostics) => {
                    Mistakes { file, yaml, diagnostics }.complain();
                    return Ok(None);
                }
            }
        }
        Ok(Some(values))
    }

    /// Returns what expressions may hash with.
    pub fn secrets(&self) -> Secrets {
        self.secrets.clone()
    }

    /// Returns the same values for tests of pipelines, which hash with keys that are the same everywhere.
    pub fn of_tests(self) -> Self {
        Self { secrets: Secrets::of_tests(), ..self }
    }

    /// Returns the same values for files that run elsewhere: which keys there are, is known only there.
    pub fn elsewhere(self) -> Self {
        Self { secrets: Secrets::default(), ..self }
    }

    /// Tells of every value that no file has a parameter for; returns whether there is none.
    pub fn all_known(&self) -> bool {
        let asked = self.asked.borrow();
        let flags = self.flags.keys().map(|name| (name, "--param".to_owned()));
        let file = self.file.iter().map(|(name, (_, place))| (name, place.clone()));
        let mut known = true;
        for (name, origin) in flags.chain(file).filter(|(name, _)| !asked.contains(*name)) {
            known = false;
            let hint = tidemill_engine::plan::name_hint(name, asked.iter().map(String::as_str));
            let hint = hint.map_or(String::new(), |hint| format!("; {hint}"));
            complain(&format!("error: {origin}: there is no parameter `{name}`{hint}"));
        }
        known
    }

    /// Returns what the parameters of the file that was read last were given.
    pub fn given(&self) -> BTreeMap<String, String> {
        self.given.borrow().clone()
    }

    fn value(&self, name: &str) -> Option<GivenValue> {
        self.asked.borrow_mut().insert(name.to_owned());
        let found = self.find(name)?;
        self.given.borrow_mut().insert(name.to_owned(), found.value.clone());
        Some(found)
    }

    fn find(&self, name: &str) -> Option<GivenValue> {
        let given = |value: &String, origin: &str| GivenValue {
            value: value.clone(),
            origin: origin.to_owned(),
        };
        if let Some(value) = self.flags.get(name) {
            return Some(given(value, "--param"));
        }
        for variable in
            [format!("{VARIABLES}{name}"), format!("{VARIABLES}{}", name.to_uppercase())]
        {
            if let Ok(value) = std::env::var(&variable) {
                return Some(given(&value, &variable));
            }
        }
        if let Some((value, place)) = self.file.get(name) {
            return Some(given(value, place));
        }
        self.remembered.borrow().get(name).map(|value| given(value, "a deployment"))
    }
}

/// Reads and plans a pipeline file with values for its parameters; the mistakes are ready to be shown.
pub fn load_with(path: &Path, values: &Values) -> anyhow::Result<Result<Plan, Mistakes>> {
    let bytes = std::fs::read(path)
        .with_context(|| format!("read the pipeline file {}", path.display()))?;
    let file = path.display().to_string();
    let yaml = match Diagnostic::text_of(bytes) {
        Ok(yaml) => yaml,
        Err((yaml, why)) => return Ok(Err(Mistakes { file, yaml, diagnostics: vec![*why] })),
    };
    values.given.take();
    // A pipe has no folder; it stands for itself.
    let planned = match path.canonicalize() {
        Ok(real) => plan_in(&yaml, &Folder::of(path, real, values)),
        Err(_) => plan_in(&yaml, &Alone { secrets: values.secrets.clone() }),
    };
    Ok(planned.map_err(|diagnostics| Mistakes { file, yaml, diagnostics }))
}

/// The same. If the file is what was deployed, given the values with which it was, they count; else
/// nothing of them does.
pub fn load_deployed(
    path: &Path,
    values: &Values,
    deployed: &[Deployment],
) -> anyhow::Result<Result<Plan, Mistakes>> {
    for one in deployed.iter().filter(|one| !one.params.is_empty()) {
        values.remembered.replace(one.params.clone());
        let loaded = load_with(path, values);
        values.remembered.take();
        if let Ok(plan) = loaded?
            && plan.yaml == one.text
        {
            return Ok(Ok(plan));
        }
    }
    load_with(path, values)
}

/// Reads and plans a pipeline file, and looks for the files that the tests of the pipeline name: who only runs it need not have
/// them.
pub fn load_with_tests(path: &Path, values: &Values) -> anyhow::Result<Result<Plan, Mistakes>> {
    let plan = match load_with(path, values)? {
        Ok(plan) => plan,
        Err(mistakes) => return Ok(Err(mistakes)),
    };
    let diagnostics = testing::missing_files(&plan, folder_of(path));
    if diagnostics.is_empty() {
        return Ok(Ok(plan));
    }
    // The text of the plan is that of all its files together.
    let yaml = std::fs::read_to_string(path).unwrap_or_default();
    Ok(Err(Mistakes { file: path.display().to_string(), yaml, diagnostics }))
}

/// Returns the folder in which a pipeline file lies.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Plans the text of a pipeline file that was read before; what it includes is in it.
pub fn load_text(path: &Path, yaml: String, values: &Values) -> Result<Plan, Mistakes> {
    let file = path.display().to_string();
    plan_in(&yaml, &Alone { secrets: values.secrets.clone() }).map_err(|diagnostics| Mistakes {
        file,
        yaml,
        diagnostics,
    })
}

/// The place where a pipeline file lies.
struct Folder<'v> {
    values: &'v Values,
    root: String,
    files: RefCell<HashMap<String, Known>>,
}

/// A file that was read.
struct Known {
    /// How it is called in messages.
    name: PathBuf,
    /// What it includes by a relative path lies in here.
    limit: PathBuf,
}

impl<'v> Folder<'v> {
    fn of(path: &Path, real: PathBuf, values: &'v Values) -> Self {
        let root = real.to_string_lossy().into_owned();
        let limit = real.parent().unwrap_or(&real).to_owned();
        let known = Known { name: path.to_owned(), limit };
        Self { values, files: RefCell::new(HashMap::from([(root.clone(), known)])), root }
    }
}

impl Surroundings for Folder<'_> {
    fn file(&self) -> Option<(String, String)> {
        let name = self.files.borrow().get(&self.root)?.name.display().to_string();
        Some((self.root.clone(), name))
    }

    fn include(&self, path: &str, from: Option<&str>) -> Result<IncludedFile, Refusal> {
        let from = from.unwrap_or(&self.root);
        let mut files = self.files.borrow_mut();
        let including =
            files.get(from).ok_or_else(|| Refusal::new("its folder is not known", None))?;
        let written = Path::new(path);
        let folder = Path::new(from).parent().unwrap_or(Path::new("/"));
        let real = folder.join(written).canonicalize().map_err(|error| {
            Refusal::new(
                error.to_string(),
                Some(format!("it is looked for in {}", folder.display())),
            )
        })?;
        let (name, limit) = if written.is_absolute() {
            (written.to_owned(), real.parent().unwrap_or(&real).to_owned())
        } else if real.starts_with(&including.limit) {
            (beside(&including.name, written), including.limit.clone())
        } else {
            let message = format!("it is not below {}", including.limit.display());
            let hint = "give its absolute path if it shall be read from there".to_owned();
            return Err(Refusal::new(message, hint));
        };
        let text = read(&real).map_err(|message| Refusal::new(message, None))?;
        let id = real.to_string_lossy().into_owned();
        let shown = name.display().to_string();
        files.entry(id.clone()).or_insert(Known { name, limit });
        Ok(IncludedFile { id, name: shown, text })
    }

    fn environment(&self, name: &str) -> Result<String, Refusal> {
        std::env::var(name).map_err(|error| match error {
            std::env::VarError::NotPresent => {
                let message = format!("the environment has no variable `{name}`");
                Refusal::new(message, format!("set it: `{name}=VALUE tidemill ...`"))
            }
            std::env::VarError::NotUnicode(_) => {
                Refusal::new(format!("the variable `{name}` is not UTF-8"), None)
            }
        })
    }

    fn parameter(&self, name: &str) -> Option<GivenValue> {
        self.values.value(name)
    }

    fn secrets(&self) -> Secrets {
        self.values.secrets.clone()
    }
}

/// Returns how a file is called that another one includes by a relative path.
fn beside(including: &Path, path: &Path) -> PathBuf {
    match including.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.join(path),
        _ => path.to_owned(),
    }
}

/// Reads a plain file of text, or says why not.
fn read(path: &Path) -> Result<String, String> {
    let is_file = std::fs::metadata(path).map_err(|error| error.to_string())?.is_file();
    if !is_file {
        return Err("it is not a plain file".to_owned()); // to open a pipe could last for ever
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let most = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX);
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}
