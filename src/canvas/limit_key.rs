//! The keys of limits that are divided by keys: a key is the text of one argument.

use super::form::Mode;
use super::freeze::TaskDef;
use super::outcome::Value;
use super::parameter::{Parameter, default_of};
use super::payload::Payload;

/// A longer text is shortened, because keys are part of store keys.
const MAX_BYTES: usize = 160;

/// Returns the key that the signature of a task gives.
pub(crate) fn given(task: &TaskDef) -> Option<String> {
    let key = task.options.as_ref()?.limit_key.as_deref()?;
    Some(shortened(key.to_owned()))
}

/// Returns the key of a task: the one that its signature [gives](given), or else its argument for
/// this parameter as text. It is empty if the task lacks the argument, is a map, or takes the
/// argument from upstream and that is a large value or a list.
pub(crate) fn of(
    task: &TaskDef,
    input: Option<&Value>,
    parameters: &[Parameter],
    name: &str,
) -> String {
    given(task).unwrap_or_else(|| {
        let argument = argument(task, input, parameters, name);
        let text = argument.map(|argument| text(&argument));
        text.map(shortened).unwrap_or_default()
    })
}

fn argument(
    task: &TaskDef,
    input: Option<&Value>,
    parameters: &[Parameter],
    name: &str,
) -> Option<Payload> {
    let index = parameters.iter().position(|one| one.name() == name)?;
    if task.mode == Mode::Map {
        return None;
    }
    let input = input.filter(|_| task.takes_upstream);
    let own = match (index, input) {
        (0, Some(Value::Inline(input))) => return Some(input.clone()),
        (0, Some(_)) => return None,
        (index, Some(_)) => index - 1,
        (index, None) => index,
    };
    match own < task.count as usize {
        true => task.args.split(task.count).ok()?.into_iter().nth(own),
        false => default_of(&parameters[index]).ok(),
    }
}

/// Returns the text of a string or number, and of any other value its JSON.
fn text(argument: &Payload) -> String {
    let value = argument.decode().unwrap_or(serde_json::Value::Null);
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text,
        value => value.to_string(),
    }
}

fn shortened(text: String) -> String {
    if text.len() <= MAX_BYTES {
        return text;
    }
    // Equal keys stay equal, and unequal ones differ at least in most cases: those that do not share
    // a budget.
    let (length, sum) = (text.len(), crc32fast::hash(text.as_bytes()));
    let end = text.floor_char_boundary(MAX_BYTES);
    format!("{}…{length}-{sum:08x}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PARAMETERS: &[Parameter] = &[
        Parameter::required::<i64>("order"),
        Parameter::required::<String>("tenant"),
        Parameter::optional::<u8>("level", &|| 3_u8),
    ];

    fn task(args: &[serde_json::Value], takes_upstream: bool) -> TaskDef {
        let encoded = args.iter().map(|arg| Payload::encode(arg).unwrap());
        let bytes: Vec<_> = encoded.map(|arg| arg.bytes().to_vec()).collect();
        TaskDef {
            name: std::borrow::Cow::Borrowed("charge").into(),
            args: Payload::from(bytes.concat()),
            count: args.len() as u32,
            mode: Mode::Once,
            takes_upstream,
            options: None,
        }
    }

    fn key(task: &TaskDef, input: Option<&serde_json::Value>, name: &str) -> String {
        let input = input.map(|input| Value::Inline(Payload::encode(input).unwrap()));
        of(task, input.as_ref(), PARAMETERS, name)
    }

    #[test]
    fn a_key_is_the_text_of_an_argument_wherever_that_comes_from() {
        let alone = task(&[json!(7), json!("acme")], false);
        assert_eq!(key(&alone, None, "tenant"), "acme");
        assert_eq!(key(&alone, None, "order"), "7");
        assert_eq!(key(&alone, None, "level"), "3");
        assert_eq!(key(&alone, None, "colour"), "");
        // An upstream value that an immutable task ignores.
        assert_eq!(key(&alone, Some(&json!(8)), "order"), "7");
        let follows = task(&[json!("acme"), json!(9)], true);
        assert_eq!(key(&follows, Some(&json!(8)), "order"), "8");
        assert_eq!(key(&follows, Some(&json!(8)), "tenant"), "acme");
        assert_eq!(key(&follows, Some(&json!(8)), "level"), "9");
        let short = task(&[json!(7)], false);
        assert_eq!(key(&short, None, "tenant"), "");
        for (argument, text) in [
            (json!(null), ""),
            (json!(true), "true"),
            (json!(1.5), "1.5"),
            (json!(["a", 1]), r#"["a",1]"#),
            (json!({"id": 4}), r#"{"id":4}"#),
        ] {
            assert_eq!(
                key(&task(&[json!(1), argument], false), None, "tenant"),
                text
            );
        }
    }

    #[test]
    fn a_long_key_is_shortened_and_stays_apart_from_others() {
        let long = |end: &str| {
            let text = format!("{}{end}", "ä".repeat(200));
            key(&task(&[json!(1), json!(text)], false), None, "tenant")
        };
        assert!(long("x").len() < 255, "{}", long("x").len());
        assert_eq!(long("x"), long("x"));
        assert_ne!(long("x"), long("y"));
        assert_ne!(long("x"), long("xx"));
    }
}
