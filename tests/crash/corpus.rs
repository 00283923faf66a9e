//! A few files, and a plain count of their words.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Dice;

/// How many of the most frequent words are asked for.
pub(crate) const TOP: usize = 7;
/// Makes about 60 chunks of the corpus.
pub(crate) const CHUNK_BYTES: usize = 1_900;

pub(crate) struct Corpus {
    home: TempDir,
    answer: Value,
}

impl Corpus {
    /// Always the same one.
    pub(crate) fn make() -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut dice = Dice(1);
        let mut counts = BTreeMap::new();
        let mut words = 0u64;
        for file in 0..4 {
            let text = text(&mut dice);
            let of_text = text.split(|c: char| !c.is_alphanumeric());
            for word in of_text.filter(|word| !word.is_empty()) {
                *counts.entry(word.to_lowercase()).or_insert(0u64) += 1;
                words += 1;
            }
            fs::write(home.path().join(format!("{file}.txt")), text).unwrap();
        }
        fs::write(home.path().join("empty"), "").unwrap();
        fs::write(home.path().join("binary"), b"no text: \xff").unwrap();
        let distinct = counts.len();
        let mut top: Vec<_> = counts.into_iter().collect();
        top.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        top.truncate(TOP);
        Self {
            home,
            answer: json!({ "files": 5, "skipped": 1, "words": words, "distinct": distinct, "top": top }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.home.path()
    }

    #[track_caller]
    pub(crate) fn check(&self, answer: &Value) {
        assert_eq!(*answer, self.answer);
    }
}

/// About 28 KB; the common words are common in all files.
fn text(dice: &mut Dice) -> String {
    let mut text = String::new();
    for _ in 0..4_500 {
        let rarity = 1 + dice.below(400);
        let word = dice.below(rarity);
        let next = match word % 5 {
            0 => format!("w{word} "),
            1 => format!("Größe{word}, "),
            2 => format!("第{word}。"),
            3 => format!("W{word}\n"),
            _ => format!("x-{word} "),
        };
        text.push_str(&next);
    }
    text
}
