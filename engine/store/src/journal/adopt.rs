//! Adopt: the files of a source that is not in the pipeline file any more become those of the source that takes
//! their names now, so that what replaces, removes or repeats them finds them.
//!
//! What happened to them stays as it was written.

use rusqlite::params;

use crate::journal::{Journal, JournalError};

impl Journal {
    /// Gives every file of a pipeline whose source is none of `sources` to the one that `source_of` returns for
    /// its name; returns how many there were. Looks at all files that ever came.
    pub fn adopt(
        &mut self,
        pipeline: &str,
        sources: &[&str],
        source_of: impl Fn(&str) -> Option<String>,
    ) -> Result<u64, JournalError> {
        self.write("adopt files", |transaction, _| {
            let mut all = transaction.prepare(
                "SELECT id, name, source FROM submission
                 WHERE pipeline = (SELECT id FROM pipeline WHERE name = ?1)",
            )?;
            let mut rows = all.query([pipeline])?;
            let mut adopted: Vec<(i64, String)> = Vec::new();
            while let Some(row) = rows.next()? {
                if !sources.contains(&row.get_ref(2)?.as_str().unwrap_or_default()) {
                    let (id, name): (i64, String) = (row.get(0)?, row.get(1)?);
                    adopted.extend(source_of(&name).map(|source| (id, source)));
                }
            }
            let mut adopt =
                transaction.prepare("UPDATE submission SET source = ?2 WHERE id = ?1")?;
            for (id, source) in &adopted {
                adopt.execute(params![id, source])?;
            }
            Ok(adopted.len() as u64)
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::journal::tests::{given, new_file};
    use crate::journal::{Generation, NewFile};

    #[test]
    fn files_of_a_source_that_is_gone_become_those_of_the_one_that_takes_their_names() {
        let (_folder, _home, mut journal) = given();
        for (pipeline, source, name) in [
            ("p", "gone", "a.csv"),
            ("p", "gone", "b.txt"),
            ("p", "stays", "c.csv"),
            ("q", "gone", "a.csv"),
        ] {
            let file = NewFile { source: source.into(), ..new_file(&mut journal, pipeline, name) };
            journal.accept(&[file]).unwrap();
        }
        let csv = |name: &str| name.ends_with(".csv").then(|| "new".to_owned());
        assert_eq!(journal.adopt("p", &["stays", "new"], csv).unwrap(), 1);
        assert_eq!(journal.adopt("p", &["stays", "new"], csv).unwrap(), 0);
        let mut found: Vec<(String, String, String)> = Vec::new();
        for pipeline in ["p", "q"] {
            let files = journal.unfinished(pipeline).unwrap().into_iter();
            found.extend(files.map(|file| (file.pipeline, file.source, file.name)));
        }
        let expected = [
            ("p", "new", "a.csv"),
            ("p", "gone", "b.txt"),
            ("p", "stays", "c.csv"),
            ("q", "gone", "a.csv"),
        ];
        let expected = expected.map(|(p, s, n)| (p.to_owned(), s.to_owned(), n.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn the_last_plan_of_a_pipeline_is_known_before_the_next_generation_begins() {
        let (_folder, _home, mut journal) = given();
        assert_eq!(journal.last_plan("p").unwrap(), None);
        for plan in ["old", "new"] {
            let plans = vec![("p".to_owned(), plan.to_owned())];
            let facts = Generation { binary_version: "1".into(), processes: 1, workers: 1, plans };
            journal.begin_generation(&facts).unwrap();
            assert_eq!(journal.last_plan("p").unwrap().as_deref(), Some(plan));
        }
        assert_eq!(journal.last_plan("q").unwrap(), None);
    }
}
