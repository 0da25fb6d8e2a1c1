//! Code: every stable word for what went wrong, in one place and in one style.
//!
//! Errors come in three sizes. That of a record stands in the column `code` of rejected records, that of
//! a file in its reason and in the journal, that of a request in the trailer of its refusal. Owns the
//! words of files and requests; those of records are [`RejectCode`], where records are. Never the
//! texts: whoever says a word says what happened.
//!
//! `docs/errors.md` tells what each means and what to do; a test holds the two together.

use std::fmt;

pub use tidemill_operators::RejectCode;

/// Declares an enum of words, each with its place in `ALL`.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every one of them.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// Returns the word that programs may compare.
            pub const fn word(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.word())
            }
        }
    };
}

words! {
    /// Why a file as a whole does not count.
    FileCode {
        /// Its header or its packing is not what it must be.
        BadFormat = "bad_format",
        /// It inflates too far.
        Bomb = "bomb",
        /// It is packed twice.
        PackedTwice = "packed_twice",
        /// It is not the file any more that was accepted.
        Changed = "changed",
        /// The disk does not give it.
        Unreadable = "unreadable",
        /// What it corrects cannot be taken back.
        OldVersionLost = "old_version_lost",
        /// It repeats an earlier one.
        Duplicate = "duplicate",
        /// Too many of its records were rejected.
        TooManyRejects = "too_many_rejects",
        /// A record was rejected where none may be.
        RejectedRecord = "rejected_record",
        /// A record was rejected that stops the pipeline.
        StoppedPipeline = "stopped_pipeline",
        /// It does not begin as its contract says.
        WrongHeader = "wrong_header",
        /// It does not end as its contract says.
        WrongTrailer = "wrong_trailer",
        /// It has another number of records than its contract or its trailer says.
        WrongCount = "wrong_count",
        /// A column adds up to something else than its trailer says.
        WrongTotal = "wrong_total",
        /// It is not the file that its manifest lists.
        WrongManifest = "wrong_manifest",
        /// Files of its set were not there in time.
        SetIncomplete = "set_incomplete",
        /// Another file of its set failed.
        SetFailed = "set_failed",
        /// Its records multiply in a loop.
        Loop = "loop_grows",
        /// It makes a join give too many rows.
        TooManyRows = "too_many_rows",
        /// It crashes the process.
        CrashesTheProcess = "crashes_the_process",
    }
}

words! {
    /// Why a request was refused.
    RequestCode {
        /// No such pipeline.
        NoPipeline = "no_pipeline",
        /// No such submission.
        NotFound = "not_found",
        /// It cannot be the name of a file.
        BadName = "bad_name",
        /// No source takes a file of that name.
        NoSource = "no_source",
        /// A field of the request is out of its range.
        BadArgument = "bad_argument",
        /// The id of an upload is none.
        BadId = "bad_id",
        /// The id was used for another file.
        IdUsed = "id_used",
        /// The id is too old.
        IdTooOld = "id_too_old",
        /// An upload with this id is under way.
        IdBusy = "id_busy",
        /// The messages of an upload do not come in order.
        BadStream = "bad_stream",
        /// A chunk does not go on where the one before it ended.
        WrongOffset = "wrong_offset",
        /// More or fewer bytes came than were declared.
        WrongSize = "wrong_size",
        /// The bytes do not have the declared hash.
        WrongHash = "wrong_hash",
        /// The file or the message is over the limit.
        TooBig = "too_big",
        /// Too much at once.
        TooBusy = "too_busy",
        /// A watcher was too slow.
        Lagged = "lagged",
        /// The client or the server took too long.
        TooSlow = "too_slow",
        /// The submission was not final in time.
        StillOpen = "still_open",
        /// The disk has no room.
        NoSpace = "no_space",
        /// The submission cannot be tried again.
        NoRetry = "no_retry",
        /// The file cannot be replaced or removed.
        NoCorrection = "no_correction",
        /// The correction cannot be tried.
        NoDryRun = "no_dry_run",
        /// What would read the file is paused or drained.
        Paused = "paused",
        /// The pipeline has no source or sink of that name.
        NoPart = "no_part",
        /// The disk refuses.
        DiskRefuses = "disk_refuses",
        /// The server stops, or takes no files now.
        Draining = "draining",
        /// The server is about to serve again.
        Starting = "starting",
        /// A pipeline file has mistakes.
        BadPipelineFile = "bad_pipeline_file",
        /// A pipeline file cannot take over.
        NoDeploy = "no_deploy",
        /// Another deployment is under way.
        DeployBusy = "deploy_busy",
        /// Files under way were not finished in time.
        DeployLate = "deploy_late",
        /// A mistake of the server's own.
        Internal = "internal",
        /// No such table.
        NoTable = "no_table",
        /// The table keeps no rows.
        KeepsNoRows = "keeps_no_rows",
        /// Rows of earlier files are still missing.
        Rebuilding = "rebuilding",
        /// The changes after that epoch are forgotten.
        EpochForgotten = "epoch_forgotten",
        /// That epoch has not come yet.
        EpochAhead = "epoch_ahead",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn words() -> [(&'static str, Vec<&'static str>); 3] {
        [
            ("Records", RejectCode::ALL.iter().map(|code| code.word()).collect()),
            ("Files", FileCode::ALL.iter().map(|code| code.word()).collect()),
            ("Requests", RequestCode::ALL.iter().map(|code| code.word()).collect()),
        ]
    }

    #[test]
    fn all_words_have_one_style_and_one_meaning() {
        let mut seen = BTreeSet::new();
        for word in words().into_iter().flat_map(|(_, words)| words) {
            let fits =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(word.bytes().all(fits) && !word.is_empty(), "{word}: small letters and `_`");
            assert!(seen.insert(word), "{word} means two things");
        }
    }

    #[test]
    fn the_page_of_errors_and_the_code_agree() {
        let page = include_str!("../../../docs/errors.md");
        let mut told: Vec<(String, Vec<&str>)> = Vec::new();
        for line in page.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                told.push((title.to_owned(), Vec::new()));
            }
            let Some(row) = line.strip_prefix("| `") else { continue };
            let cells: Vec<&str> = row.trim_end_matches('|').split(" | ").collect();
            assert_eq!(cells.len(), 3, "a word, what happened, what to do: {line}");
            assert!(cells.iter().all(|cell| !cell.trim().is_empty()), "{line}");
            if let Some((_, words)) = told.last_mut() {
                words.push(cells[0].trim_end_matches('`'));
            }
        }
        for (title, mut expected) in words() {
            let found = told.iter().find(|(one, _)| one == title).map(|(_, words)| words.clone());
            let mut found = found.unwrap_or_default();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "docs/errors.md, {title}");
        }
    }
}
