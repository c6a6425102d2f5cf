/* Python functions that C may call. They take the GIL; C never calls them more often than it must. */

extern "Python" void lucid_on_log(int level, const char *text);
extern "Python" bool lucid_on_progress(float progress, void *user_data);
