/* Runs the static library's check in a program that has no Rust runtime. */
int netvsc_no_std_check(void);

int main(void) { return netvsc_no_std_check(); }
