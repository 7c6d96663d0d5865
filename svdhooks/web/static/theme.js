// Light or dark: what the system asks for, until somebody chooses; paper is always light.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const paper = window.matchMedia("print");
let printing = false;

/** Follow the system ("auto"), or stay "light" or "dark". */
export function chooseTheme(choice) {
  if (choice === "light" || choice === "dark") document.documentElement.dataset.theme = choice;
  else delete document.documentElement.dataset.theme;
}

/** Whether the page is dark now. */
export function isDark() {
  if (printing || paper.matches) return false;
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : dark.matches;
}

/** Say that what is drawn next goes to paper. */
export function setPrinting(value) {
  printing = value;
}

/** Call `listener` when the system changes between light and dark. */
export function onSystemTheme(listener) {
  dark.addEventListener("change", listener);
}

const INKS = {
  light: {
    ink: "#1d2329",
    muted: "#5a6570",
    grid: "#e6e9ec",
    frame: "#c3cad1",
    paper: "#ffffff",
    accent: "#0b63b5",
    missing: "#eef0f2",
    alarm: "#b3261e",
  },
  dark: {
    ink: "#e6eaee",
    muted: "#9aa6b2",
    grid: "#2b323a",
    frame: "#46505b",
    paper: "#171b20",
    accent: "#5cabf5",
    missing: "#20262c",
    alarm: "#ff8a80",
  },
};

/** The colours in which a canvas writes; style.css has the same ones. */
export function inks() {
  return isDark() ? INKS.dark : INKS.light;
}

export const FONT =
  'ui-sans-serif, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif';
