// A page that is asked for in the moment in which the server begins to show the present one anew can get lost: both runs
// keep the page they are to show in the same place (Streamlit 1.67, PagesManager.set_script_intent), and the present one
// may come last. So whoever follows a link and still stands where they were, once nothing runs, is taken along again.
const LINK = "a[data-testid=stSidebarNavLink]";
const LOOK_MS = 100;
const REST_MS = 500; // without a run: the server has had its time to begin
const TIMES = 3;

export default function () {
  document.routerWorkbenchPages ??= follow();
}

function follow() {
  let timer;
  const ask = (path, times) => {
    let rested = 0;
    const look = () => {
      if (times === 0 || location.pathname === path) return;
      rested = resting() ? rested + LOOK_MS : 0;
      if (rested >= REST_MS) {
        linkTo(path)?.click();
        ask(path, times - 1);
      } else {
        timer = setTimeout(look, LOOK_MS);
      }
    };
    clearTimeout(timer);
    timer = setTimeout(look, LOOK_MS);
  };
  const clicked = (event) => {
    const link = event.isTrusted && event.target.closest?.(LINK);
    const elsewhere = event.ctrlKey || event.metaKey || event.shiftKey || event.altKey; // a tab or window of its own
    if (link && !elsewhere) ask(link.pathname, TIMES);
  };
  document.addEventListener("click", clicked, true);
  window.addEventListener("popstate", () => clearTimeout(timer));
  return true;
}

function resting() {
  return document.querySelector("[data-testid=stApp]")?.dataset.testScriptState === "notRunning";
}

function linkTo(path) {
  return [...document.querySelectorAll(LINK)].find((link) => link.pathname === path);
}
