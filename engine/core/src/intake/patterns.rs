//! Patterns: which source of a pipeline takes a file, by its name. Derived from the plan.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use tidemill_store::{Dedupe, Replaces};

use crate::plan::{Arrival, OnSameName, SourcePlan, Taking};

/// Which source of a pipeline takes a file, by its name.
#[derive(Clone, Debug)]
pub struct Patterns {
    sources: Vec<Source>,
}

#[derive(Clone, Debug)]
struct Source {
    name: String,
    patterns: Vec<String>,
    takes: GlobSet,
    ignores: GlobSet,
    manifests: GlobSet,
    taking: Taking,
}

/// Whose a dropped file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// The source with this place in the plan takes it.
    Source(usize),
    /// Nobody's: it says of another file that it is whole.
    Marker,
    /// Nobody's: it lists files of the source with this place in the plan.
    Manifest(usize),
    /// Nobody's: it is still being made, or of no concern.
    Passed,
    /// No source takes a file of this name.
    None,
}

impl Patterns {
    /// Returns the patterns of the sources, in their order.
    pub fn new(sources: &[SourcePlan]) -> Self {
        let of_source = |source: &SourcePlan| Source {
            name: source.name.clone(),
            takes: globs(&source.patterns),
            ignores: globs(&source.taking.ignore),
            manifests: globs(
                source.taking.arrival.manifest.as_ref().map(|rule| &rule.names).as_slice(),
            ),
            patterns: source.patterns.clone(),
            taking: source.taking.clone(),
        };
        Self { sources: sources.iter().map(of_source).collect() }
    }

    /// Returns the first source that takes this name. What it passes over counts too: that is said of
    /// files that lie in a folder.
    pub fn source_of(&self, name: &str) -> Option<&str> {
        self.sources.iter().find(|source| source.takes.is_match(name)).map(|source| &*source.name)
    }

    /// Returns which files of a source count as the same.
    pub fn dedupe_of(&self, source: &str) -> Dedupe {
        let source = self.sources.iter().find(|one| one.name == source);
        source.map_or(Dedupe::None, |source| source.taking.dedupe)
    }

    /// Returns which earlier file a new one of a source takes the place of, if nobody says otherwise.
    pub fn replaces_of(&self, source: &str) -> Replaces {
        let source = self.sources.iter().find(|one| one.name == source);
        match source.map(|source| source.taking.correcting.on_same_name) {
            Some(OnSameName::Replace) => Replaces::SameName,
            Some(OnSameName::New) | None => Replaces::Nothing,
        }
    }

    /// Returns all patterns, for people.
    pub fn all(&self) -> String {
        let all: Vec<&str> =
            self.sources.iter().flat_map(|source| &source.patterns).map(|p| &**p).collect();
        all.join(", ")
    }

    /// Returns the name of a source.
    pub(super) fn name_of(&self, source: usize) -> &str {
        self.sources.get(source).map_or("", |source| &source.name)
    }

    /// Returns the place of the source of this name in the plan.
    pub(super) fn place_of(&self, name: &str) -> Option<usize> {
        self.sources.iter().position(|source| source.name == name)
    }

    /// Returns the name of each source, and what its files wait for.
    pub(super) fn arrivals(&self) -> impl Iterator<Item = (&str, &Arrival)> {
        self.sources.iter().map(|source| (source.name.as_str(), &source.taking.arrival))
    }

    /// Returns how each source takes files.
    pub(super) fn takings(&self) -> impl Iterator<Item = &Taking> {
        self.sources.iter().map(|source| &source.taking)
    }

    /// Returns whose a file of this name in a folder is: the first source that takes it and does not
    /// pass it over. What says something of other files is nobody's.
    pub(super) fn fit(&self, name: &str) -> Fit {
        let is_marker = |source: &Source| {
            source.taking.arrival.marker.as_ref().is_some_and(|marker| marker.fits(name))
        };
        if self.sources.iter().any(is_marker) {
            return Fit::Marker;
        }
        if let Some(source) = self.sources.iter().position(|one| one.manifests.is_match(name)) {
            return Fit::Manifest(source);
        }
        let taken = |source: &Source| source.takes.is_match(name) && !source.ignores.is_match(name);
        match self.sources.iter().position(taken) {
            Some(source) => Fit::Source(source),
            None if self.sources.iter().any(|source| source.ignores.is_match(name)) => Fit::Passed,
            None => Fit::None,
        }
    }
}

fn globs<P: AsRef<str>>(patterns: &[P]) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        // The plan has checked them.
        if let Ok(glob) = GlobBuilder::new(pattern.as_ref()).literal_separator(true).build() {
            set.add(glob);
        }
    }
    set.build().unwrap_or_else(|_| GlobSet::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    fn patterns(sources: &str) -> Patterns {
        let yaml = format!(
            "pipeline: p\nsources:\n{sources}sinks:\n  o: {{ from: [a, b], files: {{ format: raw }} }}\n"
        );
        Patterns::new(&plan::plan(&yaml).unwrap().sources)
    }

    #[test]
    fn a_file_is_its_first_source_s_that_takes_it_and_does_not_pass_it_over() {
        let patterns = patterns(
            "  a: { format: text, pattern: \"*.log*\" }\n  b: { format: text, ignore: \"*.bak\" }\n",
        );
        let check = |name: &str, expected: Fit| assert_eq!(patterns.fit(name), expected, "{name}");
        check("a.log", Fit::Source(0));
        check("a.txt", Fit::Source(1));
        check("a.log.tmp", Fit::Source(1)); // passed over by the first, not by the second
        check("a.bak", Fit::Passed);
        assert_eq!(patterns.source_of("a.log.tmp"), Some("a"), "an upload is whole");
    }

    #[test]
    fn what_is_still_being_made_is_passed_over_unless_the_source_says_otherwise() {
        let some = patterns(
            "  a: { format: text, pattern: \"*.log\" }\n  b: { format: text, pattern: \"*.log.*\" }\n",
        );
        for name in ["~a.log", "a.log~", "a.log.tmp", "a.tmp", "a.log.part", "a.crdownload"] {
            assert_eq!(some.fit(name), Fit::Passed, "{name}");
        }
        for name in ["a.log.filepart", "a.log.swp", "a.partial"] {
            assert_eq!(some.fit(name), Fit::Passed, "{name}");
        }
        assert_eq!(some.fit("a.csv"), Fit::None);
        let all = patterns(
            "  a: { format: text, pattern: \"*.log\", ignore: [] }\n  b: { format: text, pattern: \"*.tmp\", ignore: [] }\n",
        );
        assert_eq!((all.fit("a.tmp"), all.fit("a.part")), (Fit::Source(1), Fit::None));
    }
}
