// Charts carry their colours in themselves, so they have to be drawn anew when the theme changes, and Streamlit does not
// say when it does. A one-pixel element in the theme's background colour notices: its change is a CSS transition.
export default function ({ parentElement, setTriggerValue }) {
  const patch = parentElement.querySelector(".patch");
  patch.ontransitionend = () => setTriggerValue("changed", true);
}
