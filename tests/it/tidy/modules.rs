//! The modules of `src/`, and which of them names which, read from their code. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, File, Item, ItemMod, UseTree};

/// A module's path in the crate: `["actors", "engine"]`; the crate itself is empty.
pub(crate) type Module = Vec<String>;

/// One file of `src/`.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) syntax: File,
}

/// Reads all files below `src`, those of tests excepted.
pub(crate) fn read(src: &Path) -> BTreeMap<Module, Source> {
    let mut modules = BTreeMap::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let module = module_of(path.strip_prefix(src).unwrap());
            if path.extension().is_none_or(|ending| ending != "rs") || is_of_tests(&module) {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let syntax = syn::parse_file(&text).unwrap_or_else(|why| panic!("{path:?}: {why}"));
            modules.insert(module, Source { path, syntax });
        }
    }
    modules
}

fn module_of(path: &Path) -> Module {
    let mut module: Module = path
        .with_extension("")
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
        module.pop();
    }
    module
}

/// `tests` and `proof` are declared under `cfg(test)`.
fn is_of_tests(module: &Module) -> bool {
    module.iter().any(|part| part == "tests" || part == "proof")
}

/// For each module the others that its code names, apart from those above it and below it.
pub(crate) fn arrows(modules: &BTreeMap<Module, Source>) -> BTreeMap<Module, BTreeSet<Module>> {
    let reexports: BTreeMap<&Module, BTreeMap<String, Module>> = modules
        .iter()
        .map(|(module, source)| (module, reexports(module, &source.syntax)))
        .collect();
    let mut arrows = BTreeMap::new();
    for (module, source) in modules {
        let mut names = Names::new(module.clone());
        names.visit_file(&source.syntax);
        let targets = names.found.iter().filter_map(|path| {
            let target = resolve(path, modules, &reexports, 0)?;
            let is_related = target.starts_with(module) || module.starts_with(&target);
            (!is_related).then_some(target)
        });
        arrows.insert(module.clone(), targets.collect());
    }
    arrows
}

/// The module in which the thing at `path` is defined.
fn resolve(
    path: &[String],
    modules: &BTreeMap<Module, Source>,
    reexports: &BTreeMap<&Module, BTreeMap<String, Module>>,
    depth: usize,
) -> Option<Module> {
    let length = (0..=path.len())
        .rev()
        .find(|length| modules.contains_key(&path[..*length]))?;
    let module = path[..length].to_vec();
    let name = path.get(length);
    match name.and_then(|name| reexports[&module].get(name)) {
        Some(path) if depth < 8 => resolve(path, modules, reexports, depth + 1),
        _ => Some(module),
    }
}

/// What a module shows of others, by name.
fn reexports(module: &Module, file: &File) -> BTreeMap<String, Module> {
    let mut shown = BTreeMap::new();
    for item in &file.items {
        if let Item::Use(item) = item
            && !matches!(item.vis, syn::Visibility::Inherited)
        {
            walk(&item.tree, &mut Vec::new(), &mut |path, name| {
                shown.insert(name.to_owned(), absolute(module, path));
            });
        }
    }
    shown
}

/// Calls `leaf` with each path of a `use`, and the name that it gets.
fn walk(tree: &UseTree, path: &mut Module, leaf: &mut impl FnMut(&[String], &str)) {
    match tree {
        UseTree::Path(tree) => {
            path.push(tree.ident.to_string());
            walk(&tree.tree, path, leaf);
            path.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| walk(tree, path, leaf)),
        UseTree::Glob(_) => leaf(path, "*"),
        UseTree::Name(name) if name.ident == "self" => {
            leaf(path, path.last().map_or("self", String::as_str));
        }
        UseTree::Name(name) => with(path, name.ident.to_string(), None, leaf),
        UseTree::Rename(name) => {
            let as_name = name.rename.to_string();
            with(path, name.ident.to_string(), Some(as_name), leaf);
        }
    }
}

fn with(
    path: &mut Module,
    last: String,
    name: Option<String>,
    leaf: &mut impl FnMut(&[String], &str),
) {
    path.push(last.clone());
    leaf(path, &name.unwrap_or(last));
    path.pop();
}

/// The path from the crate on; of another crate, or of what the module itself declares, one that resolves to
/// the module.
fn absolute(module: &Module, path: &[String]) -> Module {
    let mut base = match path.first().map(String::as_str) {
        Some("crate") => return path[1..].to_vec(),
        Some("super") => {
            let above = path.iter().take_while(|part| *part == "super").count();
            let base = module[..module.len().saturating_sub(above)].to_vec();
            return base
                .into_iter()
                .chain(path[above..].iter().cloned())
                .collect();
        }
        Some("self") => {
            return module.iter().chain(&path[1..]).cloned().collect();
        }
        _ => module.clone(),
    };
    base.extend_from_slice(path);
    base
}

struct Names {
    module: Module,
    found: Vec<Module>,
}

impl Names {
    fn new(module: Module) -> Self {
        Self {
            module,
            found: Vec::new(),
        }
    }

    fn note(&mut self, path: &[String]) {
        if matches!(
            path.first().map(String::as_str),
            Some("crate" | "super" | "self")
        ) {
            self.found.push(absolute(&self.module, path));
        }
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        // (What an inline module names of its parent is the parent's own.)
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut paths = Vec::new();
        walk(&item.tree, &mut Vec::new(), &mut |path, _| {
            paths.push(path.to_vec())
        });
        paths.iter().for_each(|path| self.note(path));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Module = path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        self.note(&parts);
        visit::visit_path(self, path);
    }
}

/// Says whether these say `cfg(test)`, alone or with more.
pub(crate) fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .meta
                .require_list()
                .is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

/// The sets of modules each of which names, by way of others, all others of the set; the largest first.
pub(crate) fn circles(arrows: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<Module>> {
    let mut search = Search {
        arrows,
        numbers: BTreeMap::new(),
        stack: Vec::new(),
        found: Vec::new(),
    };
    for module in arrows.keys() {
        if !search.numbers.contains_key(module) {
            search.visit(module);
        }
    }
    let mut circles = search.found;
    circles.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
    circles
}

/// Tarjan's search for strongly connected components.
struct Search<'a> {
    arrows: &'a BTreeMap<Module, BTreeSet<Module>>,
    /// In which order the modules were met.
    numbers: BTreeMap<&'a Module, usize>,
    stack: Vec<&'a Module>,
    found: Vec<Vec<Module>>,
}

impl<'a> Search<'a> {
    fn visit(&mut self, module: &'a Module) -> usize {
        let number = self.numbers.len();
        self.numbers.insert(module, number);
        self.stack.push(module);
        let mut lowest = number;
        for target in &self.arrows[module] {
            let Some((target, _)) = self.arrows.get_key_value(target) else {
                continue;
            };
            match self.numbers.get(target) {
                None => lowest = lowest.min(self.visit(target)),
                Some(number) if self.stack.contains(&target) => lowest = lowest.min(*number),
                Some(_) => {}
            }
        }
        if lowest == number {
            let at = self.stack.iter().position(|on| *on == module).unwrap();
            let circle: Vec<Module> = self.stack.drain(at..).cloned().collect();
            if circle.len() > 1 {
                self.found.push(circle);
            }
        }
        lowest
    }
}
