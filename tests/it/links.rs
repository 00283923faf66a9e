//! The links in the Markdown files: every relative one leads to a file, and to a heading in it. And the files
//! of code that these pages name are there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

#[test]
fn every_relative_link_leads_somewhere() {
    let broken = broken_links(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn a_broken_link_is_found() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "README.md",
        "# A `b`, and c!\n## Same\n## Same\n[ok](docs/a.md#b-1) [ok](#a-b-and-c) [ok](#same-1) [web](https://x.y/z#q)\n\
         `[no link](nowhere.md)`\n```rust\n#[task](nowhere.md)\n```\n[file](docs/missing.md) [heading](docs/a.md#c)\n",
    );
    write(
        "docs/a.md",
        "# B 1\n[up](../README.md) [own](#c-1) [out](../../x.md)\n",
    );
    let broken = broken_links(root.path());
    let found: Vec<_> = broken.iter().map(String::as_str).collect();
    assert_eq!(
        found,
        [
            "README.md:9: docs/missing.md: there is no such file",
            "README.md:9: docs/a.md#c: there is no such heading",
            "docs/a.md:2: #c-1: there is no such heading",
            "docs/a.md:2: ../../x.md: there is no such file",
        ]
    );
}

/// `codec.rs` may stand for any file of that name, `tests/it/{retries,schedule}.rs` for two.
#[test]
fn every_file_of_code_that_a_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = files(root, ".rs");
    let mut missing = Vec::new();
    for page in files(root, ".md") {
        let text = fs::read_to_string(&page).unwrap();
        for span in text.split('`').skip(1).step_by(2) {
            let is_path = |c: char| c.is_alphanumeric() || "/_.-{},".contains(c);
            if !span.ends_with(".rs") || !span.chars().all(is_path) {
                continue;
            }
            let paths = expanded(span);
            let is_there = |path: &String| code.iter().any(|file| file.ends_with(path));
            missing.extend(
                paths
                    .into_iter()
                    .filter(|path| !is_there(path))
                    .map(|path| {
                        let page = page.strip_prefix(root).unwrap();
                        format!("{}: {path}: there is no such file", page.display())
                    }),
            );
        }
    }
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
}

/// `a{b,c}d` as `abd` and `acd`.
fn expanded(path: &str) -> Vec<String> {
    let parts = path.split_once('{').and_then(|(before, rest)| {
        let (names, behind) = rest.split_once('}')?;
        Some((before, names, behind))
    });
    match parts {
        None => vec![path.to_owned()],
        Some((before, names, behind)) => names
            .split(',')
            .map(|name| format!("{before}{name}{behind}"))
            .collect(),
    }
}

/// The relative links in the Markdown files below `root` that lead nowhere.
fn broken_links(root: &Path) -> Vec<String> {
    let mut pages = BTreeMap::new();
    for path in files(root, ".md") {
        let text = fs::read_to_string(&path).unwrap();
        pages.insert(path.strip_prefix(root).unwrap().to_owned(), text);
    }
    let anchors: BTreeMap<_, _> = pages
        .iter()
        .map(|(page, text)| (page.clone(), anchors_in(text)))
        .collect();
    let mut broken = Vec::new();
    for (page, text) in &pages {
        for (number, line) in prose(text) {
            for link in links_in(&line) {
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
                let target = match file {
                    "" => Some(page.clone()),
                    file => normal(&page.parent().unwrap().join(file)),
                };
                let exists = target
                    .as_ref()
                    .is_some_and(|target| root.join(target).exists());
                let anchors = target.as_ref().and_then(|target| anchors.get(target));
                let has_anchor =
                    anchor.is_empty() || anchors.is_some_and(|all| all.iter().any(|a| a == anchor));
                let what = match (exists, has_anchor) {
                    (true, true) => continue,
                    (true, false) => "heading",
                    (false, _) => "file",
                };
                let page = page.display();
                broken.push(format!("{page}:{number}: {link}: there is no such {what}"));
            }
        }
    }
    broken
}

/// The files below `root` whose names end so.
fn files(root: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            if path.is_dir() {
                // What is built or installed is not ours.
                if !name.starts_with('.') && name != "target" && name != "corpus" {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                files.push(path);
            }
        }
    }
    files
}

/// The lines outside blocks of code, with their numbers, without code in back quotes.
fn prose(text: &str) -> impl Iterator<Item = (usize, String)> + '_ {
    let mut is_code = false;
    let lines = text.lines().enumerate().filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.map(|(at, line)| {
        let outside = line.split('`').step_by(2);
        (at + 1, outside.collect::<Vec<_>>().join("`"))
    })
}

/// The targets of the links in a line: `[text](target)`.
fn links_in(line: &str) -> Vec<String> {
    let starts = line.match_indices("](").map(|(at, _)| at + 2);
    let targets = starts.filter_map(|at| line[at..].split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// The anchors that GitHub gives to the headings of a page.
fn anchors_in(text: &str) -> Vec<String> {
    let mut is_code = false;
    let mut anchors: Vec<String> = Vec::new();
    let mut counts = BTreeMap::<String, usize>::new();
    for line in text.lines() {
        is_code ^= line.trim_start().starts_with("```");
        let Some(heading) = line.strip_prefix('#').filter(|_| !is_code) else {
            continue;
        };
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor = kept.collect::<String>().replace(' ', "-");
        let count = counts.entry(anchor.clone()).or_default();
        anchors.push(match *count {
            0 => anchor,
            n => format!("{anchor}-{n}"),
        });
        *count += 1;
    }
    anchors
}

/// The path without `..`; `None` if it leads out of the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => normal.pop().then_some(())?,
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    Some(normal)
}
