//! A table of words and their counts, as bytes: small enough to be a task's value, or a file.
//!
//! A million words in a `HashMap<String, u64>` take about 100 MB; here they take 5 to 10, and
//! tables are merged as they lie, in one pass, whatever their number and their size.
//!
//! The words are in ascending order. An entry is: how many bytes the word shares with the one before,
//! how many more it has, those bytes, the count. Numbers are LEB128.

use std::borrow::Cow;
use std::cmp::{Ordering, Reverse};
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};

/// The bytes are not a table.
#[derive(Debug, thiserror::Error)]
#[error("a table of words is damaged")]
pub(crate) struct Damaged;

impl From<Damaged> for io::Error {
    fn from(damaged: Damaged) -> Self {
        Self::new(io::ErrorKind::InvalidData, damaged)
    }
}

/// A table, to be read once.
pub(crate) type Table<'a> = Box<dyn BufRead + 'a>;

/// What a set of tables says in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) words: u64,
    pub(crate) distinct: u64,
    /// Count descending, then word ascending.
    pub(crate) top: Vec<(String, u64)>,
}

/// Counts the words of a text: the maximal runs of `char::is_alphanumeric`, lower-cased.
pub(crate) fn count(text: &str, table: impl Write) -> io::Result<()> {
    let mut counts: HashMap<Cow<'_, str>, u64> = HashMap::new();
    for word in text.split(|c: char| !c.is_alphanumeric()) {
        if !word.is_empty() {
            *counts.entry(lower(word)).or_default() += 1;
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable();
    let mut writer = Writer::new(table);
    for (word, count) in counts {
        writer.push(word.as_bytes(), count)?;
    }
    Ok(())
}

/// Adds tables up.
pub(crate) fn merge(tables: Vec<Table<'_>>, sum: impl Write) -> io::Result<()> {
    let mut writer = Writer::new(sum);
    each_word(tables, |word, count| writer.push(word, count))
}

impl Answer {
    /// Sums the tables up, with the `top` most frequent words.
    pub(crate) fn of(tables: Vec<Table<'_>>, top: usize) -> io::Result<Self> {
        let mut answer = Self::default();
        // The worst of the best so far is on top: the rarest, and of those the last by name.
        let mut best: BinaryHeap<Reverse<(u64, Reverse<Vec<u8>>)>> = BinaryHeap::new();
        each_word(tables, |word, count| {
            answer.words += count;
            answer.distinct += 1;
            // Words come in ascending order, so of two with one count the first is the better.
            if best.len() < top {
                best.push(Reverse((count, Reverse(word.to_owned()))));
            } else if let Some(mut worst) = best.peek_mut()
                && count > worst.0.0
            {
                *worst = Reverse((count, Reverse(word.to_owned())));
            }
            Ok(())
        })?;
        for Reverse((count, Reverse(word))) in best.into_sorted_vec() {
            let word = String::from_utf8(word).map_err(|_| Damaged)?;
            answer.top.push((word, count));
        }
        Ok(answer)
    }
}

/// Calls `visit` with each word of the tables, once, in ascending order, and its count in all.
fn each_word(
    tables: Vec<Table<'_>>,
    mut visit: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut cursors = BinaryHeap::with_capacity(tables.len());
    for table in tables {
        cursors.extend(Cursor::open(table)?.map(Reverse));
    }
    let mut word = Vec::new();
    let mut count = 0u64;
    while let Some(mut first) = cursors.peek_mut() {
        if first.0.word != word {
            if count > 0 {
                visit(&word, count)?;
            }
            word.clone_from(&first.0.word);
            count = 0;
        }
        count = count.saturating_add(first.0.count);
        if !first.0.advance()? {
            PeekMut::pop(first);
        }
    }
    if count > 0 {
        visit(&word, count)?;
    }
    Ok(())
}

/// `str::to_lowercase`, without a copy where it changes nothing.
fn lower(word: &str) -> Cow<'_, str> {
    let is_lower = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    if word.bytes().all(is_lower) {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(word.to_lowercase())
    }
}

struct Writer<W> {
    to: W,
    last: Vec<u8>,
}

impl<W: Write> Writer<W> {
    fn new(to: W) -> Self {
        Self {
            to,
            last: Vec::new(),
        }
    }

    fn push(&mut self, word: &[u8], count: u64) -> io::Result<()> {
        let same = |(a, b): &(&u8, &u8)| a == b;
        let shared = self.last.iter().zip(word).take_while(same).count();
        self.number(shared as u64)?;
        self.number((word.len() - shared) as u64)?;
        self.to.write_all(&word[shared..])?;
        self.number(count)?;
        self.last.truncate(shared);
        self.last.extend_from_slice(&word[shared..]);
        Ok(())
    }

    fn number(&mut self, mut number: u64) -> io::Result<()> {
        let mut bytes = [0; 10];
        let mut len = 0;
        while number >= 0x80 {
            bytes[len] = number as u8 | 0x80;
            number >>= 7;
            len += 1;
        }
        bytes[len] = number as u8;
        self.to.write_all(&bytes[..=len])
    }
}

/// One table, read from its first word to its last. Ordered by the word it stands at.
struct Cursor<'a> {
    word: Vec<u8>,
    count: u64,
    rest: Table<'a>,
}

impl<'a> Cursor<'a> {
    /// At the first word, if there is one.
    fn open(table: Table<'a>) -> io::Result<Option<Self>> {
        let mut cursor = Self {
            word: Vec::new(),
            count: 0,
            rest: table,
        };
        Ok(cursor.advance()?.then_some(cursor))
    }

    /// Moves to the next word, if there is one.
    fn advance(&mut self) -> io::Result<bool> {
        if self.rest.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let shared = self.number()?;
        let added = self.number()?;
        if shared > self.word.len() as u64 {
            return Err(Damaged.into());
        }
        self.word.truncate(shared as usize);
        let read = self.rest.by_ref().take(added).read_to_end(&mut self.word)?;
        if (read as u64) < added {
            return Err(Damaged.into());
        }
        self.count = self.number()?;
        Ok(true)
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            if self.rest.read(&mut byte)? == 0 {
                return Err(Damaged.into());
            }
            let [byte] = byte;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Damaged.into())
    }
}

impl Ord for Cursor<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.word.cmp(&other.word)
    }
}

impl PartialOrd for Cursor<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Cursor<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Cursor<'_> {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn counted(text: &str) -> Vec<u8> {
        let mut table = Vec::new();
        count(text, &mut table).unwrap();
        table
    }

    fn open(tables: &[Vec<u8>]) -> Vec<Table<'_>> {
        let tables = tables.iter();
        tables.map(|table| Box::new(&table[..]) as _).collect()
    }

    fn merged(tables: &[Vec<u8>]) -> Vec<u8> {
        let mut sum = Vec::new();
        merge(open(tables), &mut sum).unwrap();
        sum
    }

    fn words(table: &[u8]) -> Vec<(String, u64)> {
        let mut words = Vec::new();
        each_word(open(&[table.to_owned()]), |word, count| {
            words.push((String::from_utf8(word.to_owned()).unwrap(), count));
            Ok(())
        })
        .unwrap();
        words
    }

    fn plainly(text: &str) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for word in text.split(|c: char| !c.is_alphanumeric()) {
            if !word.is_empty() {
                *counts.entry(word.to_lowercase()).or_default() += 1;
            }
        }
        counts
    }

    #[test]
    fn words_are_runs_of_alphanumerics_in_lower_case() {
        let table = counted("Don't count 3.14 twice: ΣΑΣ, Straße, İ_x 第一 第一\u{301}don");
        let found = words(&table);
        let names: Vec<&str> = found.iter().map(|(word, _)| word.as_str()).collect();
        let all = [
            "14", "3", "count", "don", "i\u{307}", "straße", "t", "twice", "x", "σας", "第一",
        ];
        assert_eq!(names, all);
        assert_eq!(found.iter().find(|(word, _)| word == "don").unwrap().1, 2);
    }

    #[test]
    fn ties_are_told_apart_by_the_word() {
        let tables = [counted("b a c"), counted("d c e")];
        let answer = Answer::of(open(&tables), 3).unwrap();
        let top = [("c", 2), ("a", 1), ("b", 1)].map(|(word, count)| (word.to_owned(), count));
        assert_eq!((answer.words, answer.distinct), (6, 5));
        assert_eq!(answer.top, top);
    }

    #[test]
    fn nothing_adds_up_to_nothing() {
        assert!(merged(&[]).is_empty());
        assert!(counted(" .,\n").is_empty());
        let tables = [Vec::new(), Vec::new()];
        assert_eq!(Answer::of(open(&tables), 10).unwrap(), Answer::default());
        assert_eq!(Answer::of(open(&[counted("a")]), 0).unwrap().top, []);
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for bytes in [&[0][..], &[0, 5, b'a'], &[1, 0, 1], &[0xff; 12]] {
            let error = merge(open(&[bytes.to_vec()]), io::sink()).unwrap_err();
            assert_eq!(error.to_string(), "a table of words is damaged");
        }
    }

    proptest! {
        #[test]
        fn tables_merged_in_any_grouping_agree_with_a_plain_count(
            texts in prop::collection::vec("[a-cA-Cß,. ]{0,40}", 0..8),
            split in 0usize..8,
            top in 0usize..6,
        ) {
            let tables: Vec<Vec<u8>> = texts.iter().map(|text| counted(text)).collect();
            let (left, right) = tables.split_at(split.min(tables.len()));
            let both = [merged(left), merged(right)];
            let merged = merged(&both);
            let expected = plainly(&texts.join(" "));
            prop_assert_eq!(words(&merged), expected.clone().into_iter().collect::<Vec<_>>());

            let mut ranked: Vec<_> = expected.clone().into_iter().collect();
            ranked.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
            ranked.truncate(top);
            let answer = Answer::of(open(&both), top).unwrap();
            prop_assert_eq!(answer.words, expected.values().sum::<u64>());
            prop_assert_eq!(answer.distinct, expected.len() as u64);
            prop_assert_eq!(answer.top, ranked);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = merge(open(&[bytes.clone(), bytes]), io::sink());
        }
    }
}
