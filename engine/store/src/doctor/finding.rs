//! Finding: what can be found in a home, how bad it is, what it means and what to do.
//!
//! The one place of these words. The codes are stable; texts may change.

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; the next start, or nobody, has to do something.
    Note,
    /// A person must decide or do something.
    Warning,
    /// Something that was promised is not there any more.
    Damage,
}

impl Severity {
    /// Returns the word that people and programs see.
    pub const fn word(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Damage => "damage",
        }
    }
}

/// One kind of finding in one pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A stable word, `D-...`.
    pub code: &'static str,
    /// The pipeline; empty for the home itself.
    pub pipeline: String,
    /// What was found.
    pub what: &'static str,
    /// How often.
    pub count: u64,
    /// Some of it.
    pub examples: Vec<String>,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub action: &'static str,
}

impl Finding {
    pub(super) fn new(code: Code, pipeline: &str) -> Self {
        let [what, meaning, action] = code.texts();
        Finding {
            severity: code.severity(),
            code: code.word(),
            pipeline: pipeline.to_owned(),
            what,
            count: 0,
            examples: Vec::new(),
            meaning,
            action,
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $severity:ident $word:literal $what:literal $meaning:literal $action:literal)*) => {
        /// What can be found, the worst first within a severity.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// Returns the stable word.
            pub const fn word(self) -> &'static str {
                match self { $(Code::$name => $word,)* }
            }

            /// Returns how bad it is.
            pub const fn severity(self) -> Severity {
                match self { $(Code::$name => Severity::$severity,)* }
            }

            /// Returns what was found, what it means, what to do.
            const fn texts(self) -> [&'static str; 3] {
                match self { $(Code::$name => [$what, $meaning, $action],)* }
            }
        }
    };
}

codes! {
    /// The journal is not there, but its files are.
    JournalMissing Damage "D-JOURNAL-MISSING"
        "the home has files, but no journal.db"
        "Nobody knows any more which files were committed."
        "Put journal.db back from a backup (with its -wal, if there is one). Do not start: a new journal would be made, and files would be processed again."
    /// SQLite says that it is damaged.
    JournalDamaged Damage "D-JOURNAL-DAMAGED"
        "the journal is damaged"
        "What it says cannot be believed; a start refuses it."
        "Copy the home away first. Then put journal.db back from a backup, or save what can be read with `sqlite3 journal.db .recover`."
    /// It is a database of something else.
    JournalForeign Damage "D-JOURNAL-FOREIGN"
        "journal.db is not a journal of this program"
        "A start refuses it."
        "Look where the right one is; this may be the wrong directory."
    /// Its schema is one that this version does not know.
    JournalSchema Warning "D-JOURNAL-SCHEMA"
        "the journal has a schema that this version does not know"
        "This version can neither start here nor examine it."
        "Use the version that made it. A home of an unreleased version cannot be taken over: start with an empty one."
    /// Its tables contradict each other.
    JournalRules Damage "D-JOURNAL-RULES"
        "the journal breaks a rule of its own"
        "Epochs must be dense and finished in order, and its counters must agree with its rows. Somebody wrote to it, or there is a mistake in this program."
        "Copy the home away, put journal.db back from a backup, and report it."
    /// A committed file without a receipt, or one that does not balance.
    Receipt Damage "D-RECEIPT"
        "a committed file has no receipt that balances"
        "A file is never committed without one: somebody wrote to the journal, or there is a mistake in this program."
        "Compare the output with its input, and report it."
    /// A committed part that is neither staged nor published.
    PartLost Damage "D-PART-LOST"
        "a committed output is neither published nor staged"
        "The journal promises it, and it cannot be made from the journal any more. The next start refuses."
        "Put the staged file or the output back from a backup."
    /// A published output has other bytes.
    OutputChanged Damage "D-OUTPUT-CHANGED"
        "an output is not what was committed"
        "Somebody wrote to it, or the disk lost bytes. This program replaces outputs whole, and notes what it put there."
        "Do not use it. Put it back from a backup; its size and hash are in the journal (`tidemill file ID`)."
    /// A processed input has other bytes.
    InputChanged Damage "D-INPUT-CHANGED"
        "an input is not what was accepted"
        "Its outputs are those of the file as it was accepted; tables cannot be rebuilt from it as it is now."
        "Put the file back as it was; its size and hash are in the journal."
    /// A committed output is gone.
    OutputMissing Warning "D-OUTPUT-MISSING"
        "a committed output is not in out/"
        "Somebody took it away, which is fine if it was meant, or it was lost."
        "Ask who reads these outputs. If nobody took it, put it back from a backup."
    /// A file that the journal knows is nowhere.
    InputMissing Warning "D-INPUT-MISSING"
        "an input is not where the journal has it"
        "One that is not finished will be set aside by the next start. One that is committed is missing when tables are rebuilt: a start then refuses without --forget-missing."
        "Put it back, or look who took it away."
    /// An input is gone whose rows are in every checkpoint that is kept.
    InputThinned Note "D-INPUT-THINNED"
        "inputs of before the checkpoints are gone"
        "No start needs them, as long as a checkpoint is whole and the pipeline file asks for the same sums and tables."
        "Nothing, if they were removed on purpose."
    /// The old bytes of a corrected file are gone, and a checkpoint still holds its rows.
    RetainedMissing Warning "D-RETAINED-MISSING"
        "an old version is gone that a start may need"
        "A checkpoint holds its rows, and its correction came behind it. The next start cannot begin with that checkpoint and reads the files in processed/ again."
        "Put it back into retained/, or let the next start take longer; the next checkpoint makes it unnecessary."
    /// A checkpoint that counts cannot be used.
    Checkpoint Warning "D-CHECKPOINT-DAMAGED"
        "a checkpoint is damaged"
        "The next start uses the one before it, or reads the files in processed/ again."
        "Nothing, if every input is there: the next checkpoint makes it unnecessary. Look at the disk."
    /// A file is in two of the four folders.
    InputDoubled Warning "D-INPUT-DOUBLED"
        "a file lies in two folders"
        "A file is in exactly one of the four; somebody copied it."
        "Compare the two and move away the one in the wrong folder."
    /// A file in our folders that the journal does not know.
    InputUnknown Warning "D-INPUT-UNKNOWN"
        "a file lies in a folder of ours where the journal has none"
        "Somebody put it there, or the journal is older than the files (a restored backup). It is not processed where it is."
        "To have it processed, move it to unprocessed/; else move it away."
    /// A file in `out/` that the journal does not know.
    OutputUnknown Warning "D-OUTPUT-UNKNOWN"
        "a file lies in out/ and is not in the journal"
        "Somebody put it there, or the journal is older than the files (a restored backup). Whoever reads out/ takes it for an output."
        "Move it away if it is no output."
    /// Something that is no plain file.
    NotAFile Warning "D-NOT-A-FILE"
        "something that is no plain file lies in a folder of ours"
        "A link, a folder or a pipe is never followed or read."
        "Move it away."
    /// A folder is missing or is no folder.
    NotAFolder Warning "D-NOT-A-FOLDER"
        "a folder of the home is missing, or something else stands there"
        "A missing folder is made by the next start; a link or file in its place makes it refuse."
        "Take away what stands there. If files are missing with the folder, put them back from a backup."
    /// Folders on two file systems.
    Split Warning "D-SPLIT"
        "a folder is on another file system than the home"
        "Files could not be moved in one step; a start refuses."
        "Unmount it, or move the whole home to that file system."
    /// Everybody may write.
    Open Warning "D-OPEN"
        "everybody on this machine may write here"
        "Anybody can move our files away or put files in their place; a start refuses."
        "Take that right away: chmod o-w"
    /// Others may read the journal.
    Readable Warning "D-READABLE"
        "others may read the journal"
        "It holds the names of all files, and small outputs until they are published."
        "Take that right away: chmod go-rwx journal.db"
    /// It may not be read by us.
    Unreadable Warning "D-UNREADABLE"
        "something could not be looked at"
        "The examination is not complete."
        "Run it as the user that runs the server, and look at the owner and mode."
    /// The disk is nearly full.
    Space Warning "D-SPACE"
        "there is hardly any room left on the file system"
        "The server takes no files in and waits; nothing is lost, and it goes on when there is room."
        "Make room: old files in processed/ and out/ may go once nobody needs them."
    /// Published and moved, not yet known to be durable.
    Unsettled Note "D-UNSETTLED"
        "files are finished and not settled"
        "Their outputs and moves are being made visible, or, if nothing runs here, will be by the next start."
        "Nothing; start the server if it should run."
    /// Claimed, not accepted.
    Claimed Note "D-CLAIMED"
        "files were claimed and not accepted"
        "The server was about to accept them. If nothing runs here, the next start puts them back and takes them again."
        "Nothing; start the server if it should run."
    /// Bytes in `stage/` of earlier lives.
    Staged Note "D-STAGED"
        "stage/ holds files of outputs that are not published"
        "Those of files under way, or what a crash left. The next start removes what nothing needs."
        "Nothing."
    /// Bytes in `spool/`.
    Spooled Note "D-SPOOLED"
        "spool/ holds uploads that are not accepted"
        "Those under way, or what a crash left. The next start removes the old ones."
        "Nothing."
    /// Temporary files.
    Temporary Note "D-TEMPORARY"
        "temporary files of a replacement that a crash cut off"
        "The next replacement of the same file overwrites them."
        "Nothing."
    /// The log was not folded into the database.
    Log Note "D-LOG"
        "the journal has a log beside it (journal.db-wal)"
        "Usual while a server runs, and after a crash: it holds committed facts. The next start folds it in."
        "Never remove it; back it up together with journal.db."
    /// Files in quarantine.
    Quarantine Note "D-QUARANTINE"
        "files were set aside"
        "They left no output; the reason lies beside each as NAME.reason.json."
        "Correct the cause and drop them into unprocessed/ again."
    /// A quarantined file was taken away.
    QuarantineTaken Note "D-QUARANTINE-TAKEN"
        "files were taken out of quarantine/"
        "Somebody looked after them."
        "Nothing."
    /// The snapshot of a table and what is said about it differ.
    TableOld Note "D-TABLE-OLD"
        "the snapshot of a table is not what is said about it"
        "Its replacement was cut off, or it is being replaced, or somebody wrote to it. Tables are derived: the server writes the snapshot again when its table changes, and at each start."
        "Nothing; start the server if it should run."
    /// Checkpoints are there.
    Checkpoints Note "D-CHECKPOINTS"
        "the home has checkpoints"
        "They hold the state of operators, so that a start need not read all committed files again."
        "Nothing."
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_has_a_word_of_its_own_and_says_what_to_do() {
        let words: BTreeSet<&str> = Code::ALL.iter().map(|code| code.word()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.word().starts_with("D-"));
            assert!(code.texts().iter().all(|text| text.len() >= 8), "{code:?}");
        }
    }
}
