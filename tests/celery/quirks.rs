//! Canvases with which Celery 5.7 hangs, drops a callback or gives a wrong value, and what they are
//! to come to. `Qnn` counts as the project's list of those does.

use serde_json::{Value, json};

use crate::build::{chain, chord, group, linked, on_err, raw_chain, s, si, with_option};
use crate::cases::Case;

pub(crate) fn promised() -> Vec<Case> {
    let case = |id: &str, canvas: Value, expect: Value| Case {
        id: id.to_owned(),
        canvas,
        apply: None,
        expect,
    };
    let chord_error = |original: &str| {
        let message = format!("Dependency <id> raised {original}");
        json!({"type": "ChordError", "message": message})
    };
    // One failing task whose errbacks are none, then this one, once.
    let told =
        |tag: &str, error: &Value| json!([tag, "inline", null, error["type"], error["message"]]);
    let fail = || s("fail", json!(["leak"]));
    let leak = json!({"type": "ValueError", "message": "leak"});
    let one = || s("const", json!([1]));
    let err = |signature: Value, tag: &str| on_err(signature, s("on_fail", json!([tag])));
    let xsum = || s("xsum", json!([]));
    let to_list = || s("to_list", json!([]));
    let leaked = chord_error("ValueError('leak')");
    let leaked_twice = chord_error("ChordError(\"Dependency <id> raised ValueError('leak')\")");
    let expired = || with_option(s("identity", json!([])), "expires", json!(-1));
    let expired_const = with_option(s("const", json!([2])), "expires", json!(-1));
    let revoked = json!({"type": "TaskRevokedError", "message": "expired"});
    let failed = |error: &Value| json!({"state": "FAILURE", "error": error});
    vec![
        case(
            "Q01 a header member is a chord whose header fails",
            chord(vec![chord(vec![fail()], xsum()), one()], err(xsum(), "E")),
            json!({"state": "FAILURE", "error": leaked_twice, "executions": {"fail": 1, "const": 1},
                "errbacks": 1, "errback_log": [told("E", &leaked_twice)]}),
        ),
        case(
            "Q01 the errback as Celery writes it, in each chord of three",
            err(
                chord(
                    vec![
                        one(),
                        chord(vec![chord(vec![fail()], xsum()), one()], xsum()),
                    ],
                    xsum(),
                ),
                "E",
            ),
            {
                let thrice = chord_error(
                    r#"ChordError('Dependency <id> raised ChordError("Dependency <id> raised ValueError(\'leak\')")')"#,
                );
                json!({"state": "FAILURE", "error": thrice, "executions": {"fail": 1, "const": 2},
                    "errbacks": 1, "errback_log": [told("E", &thrice)]})
            },
        ),
        case(
            "Q01 the same, the body of the inner chord fails, which is a chain",
            err(
                chord(
                    vec![
                        chord(vec![one()], chain(vec![xsum(), s("fail", json!([]))])),
                        chord(vec![one()], xsum()),
                    ],
                    xsum(),
                ),
                "E",
            ),
            {
                let error = chord_error("ValueError('1')");
                json!({"state": "FAILURE", "error": error, "errbacks": 1,
                    "executions": {"fail": 1, "const": 2, "xsum": 2}, "errback_log": [told("E", &error)]})
            },
        ),
        case(
            "Q02 a body is a chord, the first header fails",
            chord(
                vec![fail(), one()],
                chord(vec![err(xsum(), "H")], err(to_list(), "E")),
            ),
            json!({"state": "FAILURE", "error": leaked, "executions": {"fail": 1, "const": 1},
                "errbacks": 1, "errback_log": [told("E", &leaked)]}),
        ),
        case(
            "Q03 a chain that ends in a group fails before that",
            chain(vec![
                err(fail(), "F"),
                group(vec![err(s("add", json!([1])), "G"), to_list()]),
            ]),
            json!({"state": "FAILURE", "error": leak, "children": [failed(&leak), failed(&leak)],
                "executions": {"fail": 1}, "errbacks": 1, "errback_log": [told("F", &leak)]}),
        ),
        case(
            "Q04 a step expires",
            err(
                chain(vec![one(), err(expired(), "S"), err(to_list(), "N")]),
                "E",
            ),
            json!({"state": "FAILURE", "error": revoked, "executions": {"const": 1},
                "errbacks": 1, "errback_log": [told("E", &revoked)]}),
        ),
        case(
            "Q04 the last step expires",
            err(chain(vec![one(), err(expired(), "S")]), "E"),
            json!({"state": "REVOKED", "error": revoked, "executions": {"const": 1}, "errbacks": 0}),
        ),
        case(
            "Q04 a step of an inner chain expires, and it is the last there",
            err(
                raw_chain(vec![err(raw_chain(vec![one(), expired()]), "I"), to_list()]),
                "O",
            ),
            json!({"state": "FAILURE", "error": revoked, "executions": {"const": 1},
                "errbacks": 1, "errback_log": [told("O", &revoked)]}),
        ),
        case(
            "an expired header member",
            chord(vec![one(), err(expired_const, "S")], err(xsum(), "E")),
            json!({"state": "FAILURE", "error": chord_error("TaskRevokedError('expired')"),
                "executions": {"const": 1}, "errbacks": 1,
                "errback_log": [told("E", &chord_error("TaskRevokedError('expired')"))]}),
        ),
        case(
            "Q05 a group in a header keeps its order",
            chord(
                vec![
                    one(),
                    group([2, 3, 4].map(|n| s("const", json!([n]))).into()),
                    one(),
                ],
                to_list(),
            ),
            json!({"state": "SUCCESS", "result": [[1, 2, 3, 4, 1]],
                "executions": {"const": 5, "to_list": 1}, "errbacks": 0}),
        ),
        case(
            "Q06 what follows a chord whose body is a group gets the list",
            raw_chain(vec![
                chord(vec![one(), one()], group(vec![xsum(), to_list()])),
                to_list(),
            ]),
            json!({"state": "SUCCESS", "result": [[2, [[1, 1]]]],
                "executions": {"const": 2, "xsum": 1, "to_list": 2}, "errbacks": 0}),
        ),
        case(
            "Q06b a member of that group fails",
            raw_chain(vec![
                chord(vec![one()], group(vec![xsum(), s("fail", json!([]))])),
                err(to_list(), "E"),
            ]),
            json!({"state": "FAILURE", "error": chord_error("ValueError('[1]')"),
                "executions": {"const": 1, "xsum": 1, "fail": 1}, "errbacks": 1,
                "errback_log": [told("E", &chord_error("ValueError('[1]')"))]}),
        ),
        case(
            "Q06b its header fails: what follows is the body of the chord that the group makes",
            raw_chain(vec![
                chord(vec![fail()], group(vec![err(xsum(), "G"), to_list()])),
                err(to_list(), "E"),
            ]),
            json!({"state": "FAILURE", "error": leaked, "executions": {"fail": 1}, "errbacks": 1,
                "errback_log": [told("E", &leaked)]}),
        ),
        case(
            "Q08 three groups in a row",
            raw_chain(vec![
                group(vec![one(), one()]),
                group(vec![xsum(), to_list()]),
                group(vec![to_list(), to_list()]),
            ]),
            json!({"state": "SUCCESS", "result": [[[2, [[1, 1]]]], [[2, [[1, 1]]]]],
                "executions": {"const": 2, "xsum": 1, "to_list": 3}, "errbacks": 0}),
        ),
        case(
            "Q09 a body is a chain: its errbacks and its first step's",
            chord(
                vec![fail()],
                err(chain(vec![err(xsum(), "F"), err(to_list(), "N")]), "C"),
            ),
            json!({"state": "FAILURE", "error": leaked, "executions": {"fail": 1}, "errbacks": 2,
                "errback_log": [told("C", &leaked), told("F", &leaked)]}),
        ),
        case(
            "Q10 the callbacks of an inner chain",
            raw_chain(vec![
                linked(
                    raw_chain(vec![one(), s("neg", json!([]))]),
                    s("record", json!(["L"])),
                ),
                err(
                    raw_chain(vec![to_list(), s("fail_with", json!(["x"]))]),
                    "E",
                ),
            ]),
            {
                let error = json!({"type": "ValueError", "message": "x:[-1]"});
                json!({"state": "FAILURE", "error": error, "recorded": [["L", -1]],
                    "executions": {"const": 1, "neg": 1, "record": 1, "to_list": 1, "fail_with": 1},
                    "errbacks": 1, "errback_log": [told("E", &error)]})
            },
        ),
        case(
            "Q11 a body is a group",
            chord(
                vec![fail()],
                group(vec![err(xsum(), "A"), to_list(), err(to_list(), "B")]),
            ),
            json!({"state": "FAILURE", "error": leaked,
                "children": [failed(&leaked), failed(&leaked), failed(&leaked)],
                "executions": {"fail": 1}, "errbacks": 2,
                "errback_log": [told("A", &leaked), told("B", &leaked)]}),
        ),
        case(
            "Q14 an errback that is a chain",
            on_err(
                fail(),
                chain(vec![s("on_fail", json!(["A"])), si("note", json!(["B"]))]),
            ),
            json!({"state": "FAILURE", "error": leak, "executions": {"fail": 1, "note": 1},
                "errbacks": 1, "errback_log": [told("A", &leak)], "recorded": [["B", null]]}),
        ),
        case(
            "Q15 an immutable errback with three parameters",
            on_err(fail(), si("on_fail", json!(["E"]))),
            json!({"state": "FAILURE", "error": leak, "executions": {"fail": 1},
                "errbacks": 1, "errback_log": [told("E", &leak)]}),
        ),
        case(
            "Q19 a chain in a header ends in a group that holds a chord",
            chord(
                vec![raw_chain(vec![
                    one(),
                    group(vec![
                        chord(vec![s("add", json!([2])), s("add", json!([3]))], xsum()),
                        s("add", json!([2])),
                    ]),
                ])],
                to_list(),
            ),
            json!({"state": "SUCCESS", "result": [[[7, 3]]], "errbacks": 0,
                "executions": {"const": 1, "add": 3, "xsum": 1, "to_list": 1}}),
        ),
        case(
            "Q21 a body is a chain that starts with a group that holds a chord",
            chord(
                vec![one(), one()],
                raw_chain(vec![
                    group(vec![chord(vec![xsum()], to_list()), xsum()]),
                    to_list(),
                ]),
            ),
            json!({"state": "SUCCESS", "result": [[[[2]], 2]], "errbacks": 0,
                "executions": {"const": 2, "xsum": 2, "to_list": 2}}),
        ),
        case(
            "an errback on a callback",
            linked(one(), err(s("fail_with", json!(["cb"])), "E")),
            {
                let error = json!({"type": "ValueError", "message": "cb:1"});
                json!({"state": "SUCCESS", "result": 1, "executions": {"const": 1, "fail_with": 1},
                    "errbacks": 1, "errback_log": [told("E", &error)]})
            },
        ),
        case(
            "a failing replacement: the task's errbacks, once",
            linked(
                err(s("replace_with_chain_fail", json!([4])), "E"),
                s("record", json!(["L"])),
            ),
            {
                let error = json!({"type": "ValueError", "message": "inner:5"});
                json!({"state": "FAILURE", "error": error, "errbacks": 1,
                    "executions": {"replace_with_chain_fail": 1, "add": 1, "fail_with": 1},
                    "errback_log": [told("E", &error)]})
            },
        ),
    ]
}
