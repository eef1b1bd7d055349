//! Colours of levels, hosts, headings and differences, for dark and light backgrounds.

use console::Style;

use crate::event::Level;

/// The background that the colours are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Theme {
    /// An unknown background: no yellow, which cannot be read on a light one.
    #[default]
    Default,
    /// A dark background.
    Dark,
    /// A light background.
    Light,
}

/// Colours of hosts on a dark background, of the 256.
const ON_DARK: [u8; 10] = [87, 120, 213, 228, 117, 215, 159, 183, 156, 223];

/// Colours of hosts on a light background, of the 256.
const ON_LIGHT: [u8; 10] = [30, 28, 90, 94, 25, 130, 24, 54, 22, 88];

impl Theme {
    /// The theme with this name.
    #[must_use]
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        match name {
            "default" => Some(Self::Default),
            "dark" => Some(Self::Dark),
            "light" => Some(Self::Light),
            _ => None,
        }
    }

    /// The style of a level in a log line.
    #[must_use]
    pub(crate) fn level(self, level: Level) -> Option<Style> {
        let style = Style::new();
        match level {
            Level::Trace | Level::Debug => Some(match self {
                Self::Default => style.dim(),
                Self::Dark => style.color256(245),
                Self::Light => style.color256(242),
            }),
            Level::Info => None,
            Level::Warn => Some(match self {
                Self::Default => style.magenta(),
                Self::Dark => style.yellow().bright(),
                Self::Light => style.color256(130),
            }),
            Level::Error | Level::Fatal => Some(self.bad().bold()),
        }
    }

    /// The style of the host with this index. It differs from those of its neighbours.
    #[must_use]
    pub(crate) fn host(self, index: usize) -> Style {
        let style = Style::new();
        match self {
            Self::Default => {
                let style = match index % 4 {
                    0 => style.cyan(),
                    1 => style.green(),
                    2 => style.magenta(),
                    _ => style.blue(),
                };
                // Bold and underlined, the four colours can be told apart again.
                match index / 4 % 3 {
                    0 => style,
                    1 => style.bold(),
                    _ => style.underlined(),
                }
            }
            Self::Dark => style.color256(ON_DARK[index % ON_DARK.len()]),
            Self::Light => style.color256(ON_LIGHT[index % ON_LIGHT.len()]),
        }
    }

    /// The style of headings.
    #[must_use]
    pub(crate) fn heading(self) -> Style {
        Style::new().bold()
    }

    /// The style of failures, and of removed lines.
    #[must_use]
    pub(crate) fn bad(self) -> Style {
        match self {
            Self::Default => Style::new().red(),
            Self::Dark => Style::new().red().bright(),
            Self::Light => Style::new().color256(124),
        }
    }

    /// The style of added lines.
    #[must_use]
    pub(crate) fn good(self) -> Style {
        match self {
            Self::Default => Style::new().green(),
            Self::Dark => Style::new().green().bright(),
            Self::Light => Style::new().color256(28),
        }
    }

    /// The style of the headers of differences, and of `{bar}`.
    #[must_use]
    pub(crate) fn aside(self) -> Style {
        match self {
            Self::Default => Style::new().cyan(),
            Self::Dark => Style::new().cyan().bright(),
            Self::Light => Style::new().color256(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_yellow_where_the_ground_may_be_light() {
        let theme = Theme::Default;
        let yellows = [Style::new().yellow(), Style::new().yellow().bold()];
        let hosts = (0..20).map(|index| theme.host(index));
        assert!(
            hosts
                .chain(theme.level(Level::Warn))
                .all(|style| !yellows.contains(&style))
        );
    }

    #[test]
    fn ten_hosts_in_a_row_look_different() {
        for theme in [Theme::Default, Theme::Dark, Theme::Light] {
            for first in 0..20 {
                let styles = (first..first + 10).map(|index| theme.host(index));
                let styles: Vec<Style> = styles.collect();
                for (index, style) in styles.iter().enumerate() {
                    assert!(!styles[..index].contains(style), "{theme:?} {first}");
                }
            }
            assert_eq!(theme.host(3), theme.host(3));
        }
    }
}
