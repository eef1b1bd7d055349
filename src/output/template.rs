//! Templates for log lines and the status bar: text with `{key}` and `{key:style}`. Styles
//! are those of the `console` crate, such as `red.bold` or `on_blue`. `{{` and `}}` are
//! braces.

use console::Style;

/// An error in a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    /// `{` without `}`, or the other way round.
    #[error("a brace has no partner (write {{{{ and }}}} for braces)")]
    Unpaired,
    /// The key does not exist.
    #[error("there is no {{{key}}}; there are {known}")]
    UnknownKey {
        /// The key.
        key: String,
        /// All keys that exist.
        known: String,
    },
    /// A required key is missing.
    #[error("it needs {{{0}}}")]
    MissingKey(&'static str),
    /// There is no key at all.
    #[error("it has none of {{phase}}, {{done}} and the like in it")]
    NoKey,
    /// A control character, which could move the cursor.
    #[error("it has a control character in it")]
    Control,
    /// The style does not exist.
    #[error("'{0}' is no style; write colours and attributes such as red.bold or on_blue")]
    UnknownStyle(String),
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Key(&'static str, Option<Style>),
}

impl Template {
    /// Parses a template that may use these keys.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub(crate) fn parse(text: &str, keys: &[&'static str]) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(brace) = ["{{", "}}"].iter().find(|two| rest.starts_with(**two)) {
                plain.push_str(&brace[..1]);
                rest = &rest[2..];
                continue;
            }
            let inside = rest.strip_prefix('{').ok_or(TemplateError::Unpaired)?;
            let (inside, after) = inside.split_once('}').ok_or(TemplateError::Unpaired)?;
            parts.push(Part::Text(std::mem::take(&mut plain)));
            parts.push(part(inside, keys)?);
            rest = after;
        }
        plain.push_str(rest);
        parts.push(Part::Text(plain));
        Ok(Self { parts })
    }

    /// Requires a key.
    ///
    /// # Errors
    /// The template does not have it.
    pub(crate) fn requiring(self, key: &'static str) -> Result<Self, TemplateError> {
        let mut parts = self.parts.iter();
        if parts.any(|part| matches!(part, Part::Key(name, _) if *name == key)) {
            Ok(self)
        } else {
            Err(TemplateError::MissingKey(key))
        }
    }

    /// Requires any key, and one line.
    ///
    /// # Errors
    /// The template has no key, or has control characters.
    pub(crate) fn changing_line(self) -> Result<Self, TemplateError> {
        let is_control =
            |part: &Part| matches!(part, Part::Text(text) if text.contains(char::is_control));
        if self.parts.iter().any(is_control) {
            return Err(TemplateError::Control);
        }
        if self.parts.iter().any(|part| matches!(part, Part::Key(..))) {
            Ok(self)
        } else {
            Err(TemplateError::NoKey)
        }
    }

    /// The template up to the first place of a key, the style there, and the template
    /// after it, which may have the key again.
    #[must_use]
    pub(crate) fn split_at(&self, key: &str) -> (Self, Option<Style>, Self) {
        let style_of = |part: &Part| match part {
            Part::Key(name, style) if *name == key => Some(style.clone()),
            _ => None,
        };
        let mut styles = self.parts.iter().map(style_of).enumerate();
        let found = styles.find_map(|(at, style)| Some((at, style?)));
        let (before, style, after) = match found {
            Some((at, style)) => (&self.parts[..at], style, &self.parts[at + 1..]),
            None => (&self.parts[..], None, &[][..]),
        };
        let template = |parts: &[Part]| Self {
            parts: parts.to_vec(),
        };
        (template(before), style, template(after))
    }

    /// Fills the template in. `value` returns the text of a key, and its style if the
    /// template names none.
    pub(crate) fn render(
        &self,
        is_colored: bool,
        mut value: impl FnMut(&str) -> (String, Option<Style>),
    ) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Key(key, style) => {
                    let (value, own_style) = value(key);
                    match style.as_ref().or(own_style.as_ref()) {
                        Some(style) if is_colored && !value.is_empty() => {
                            text.push_str(&paint(style, &value));
                        }
                        _ => text.push_str(&value),
                    }
                }
            }
        }
        text
    }
}

fn part(inside: &str, keys: &[&'static str]) -> Result<Part, TemplateError> {
    let (name, style) = match inside.split_once(':') {
        Some((name, style)) => (name, Some(style)),
        None => (inside, None),
    };
    let key = keys.iter().find(|key| **key == name);
    let key = key.ok_or_else(|| TemplateError::UnknownKey {
        key: name.to_owned(),
        known: keys
            .iter()
            .map(|key| format!("{{{key}}}"))
            .collect::<Vec<_>>()
            .join(", "),
    })?;
    Ok(Part::Key(key, style.map(parse_style).transpose()?))
}

fn parse_style(text: &str) -> Result<Style, TemplateError> {
    // The crate ignores names that it does not know.
    let is_known = |name: &str| Style::from_dotted_str(name) != Style::new();
    match text.split('.').find(|name| !is_known(name)) {
        Some(unknown) => Err(TemplateError::UnknownStyle(unknown.to_owned())),
        None => Ok(Style::from_dotted_str(text)),
    }
}

/// A text in a style, whatever `console` thinks of our terminal. Spaces around the text
/// have no style.
#[must_use]
pub(crate) fn paint(style: &Style, text: &str) -> String {
    let inner = text.trim_matches(' ');
    let start = text.len() - text.trim_start_matches(' ').len();
    let style = style.clone().force_styling(true);
    let (before, after) = (&text[..start], &text[start + inner.len()..]);
    format!("{before}{}{after}", style.apply_to(inner))
}

/// The control sequences before and after a text in a style.
#[must_use]
pub(crate) fn brush(style: &Style) -> (String, String) {
    let painted = paint(style, "x");
    let (open, close) = painted.split_once('x').unwrap_or_default();
    (open.to_owned(), close.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 2] = ["a", "b"];

    fn rendered(template: &str, is_colored: bool) -> Result<String, TemplateError> {
        let template = Template::parse(template, &KEYS)?;
        Ok(template.render(is_colored, |key| (format!("<{key}>"), None)))
    }

    #[test]
    fn keys_are_replaced_and_braces_can_be_written() {
        assert_eq!(
            rendered("x {a}{b:red} {{y}}", false).unwrap(),
            "x <a><b> {y}"
        );
        assert_eq!(
            rendered("{b:red.bold}!", true).unwrap(),
            "\x1b[31m\x1b[1m<b>\x1b[0m!"
        );
    }

    #[test]
    fn what_cannot_be_understood_is_said() {
        for (template, message) in [
            ("{a", "a brace has no partner (write {{ and }} for braces)"),
            ("a}", "a brace has no partner (write {{ and }} for braces)"),
            ("{c}", "there is no {c}; there are {a}, {b}"),
            (
                "{a:redd}",
                "'redd' is no style; write colours and attributes such as red.bold or on_blue",
            ),
        ] {
            assert_eq!(rendered(template, false).unwrap_err().to_string(), message);
        }
        let without = Template::parse("{a}", &KEYS).unwrap().requiring("b");
        assert_eq!(without.unwrap_err().to_string(), "it needs {b}");
    }

    #[test]
    fn a_style_leaves_the_space_around_a_text_alone() {
        let style = Style::from_dotted_str("red");
        assert_eq!(paint(&style, " [WARN]"), " \x1b[31m[WARN]\x1b[0m");
    }
}
